"""`provision deploy`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from provision.cli.options import (
    Screen,
    agreed,
    diff_option,
    exit_code_option,
    force_fit_option,
    listing_options,
    lock_wait_option,
    seconds_of,
)

if TYPE_CHECKING:
    from provision.actions import DeployResult, Plan, Request


@click.command()
@listing_options
@click.option("-C", "--check", "--dry-run", is_flag=True, help="Only plan.")
@diff_option
@exit_code_option
@force_fit_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--serial", default="", metavar="N|P%", help="Change the hosts in batches of N.  [default: one batch]")
@click.option("--canary", is_flag=True, help="Change a gpu host alone first; go on only if this host is well.")
@click.option("--max-fail", default="", metavar="N|P%", help="Stop when more than N hosts fail.  [default: never]")
@lock_wait_option("a host")
@click.option(
    "--resume", default="", metavar="RUN", help="Go on with a run that was killed: its hosts, roles and pace."
)
def deploy(
    request: Request,
    screen: Screen,
    check: bool,
    diff: bool,
    exit_code: bool,
    force_fit: bool,
    yes: bool,
    serial: str,
    canary: bool,
    max_fail: str,
    lock_wait: str,
    resume: str,
) -> int:
    """Change the hosts to the state in the inventory. A step that is as declared stays untouched."""
    from provision import actions
    from provision.errors import UsageError
    from provision.report import plan, recap

    request = dataclasses.replace(request, force_fit=force_fit)
    pace = actions.Pace(serial, canary, max_fail, seconds_of(lock_wait, "--lock-wait", least=0))
    listen = screen.progress()
    detail = plan.Detail(diff=diff, steps=screen.verbose, quiet=screen.quiet)
    if check:
        planned = actions.plan(request, resume=resume, listen=listen)
        code = planned.drift_exit_code if exit_code else planned.exit_code
        plan.show(planned, code, as_json=screen.as_json, detail=detail)
        return code
    if exit_code:
        raise UsageError("--exit-code is about a plan", "say --check too, or use `provision plan --exit-code`")
    asks = not yes and screen.asks
    if not (yes or asks):
        raise UsageError("deploy asks first, and there is no terminal", "say --yes, or look at `provision plan` first")

    def confirm(planned: Plan) -> bool:
        plan.show(planned, planned.exit_code, as_json=False, detail=dataclasses.replace(detail, quiet=False))
        return not planned.is_none and agreed(
            screen.caller.confirm, "Deploy this?", "not deployed: nothing was changed"
        )

    def tell(result: DeployResult) -> None:
        recap.show(result, as_json=screen.as_json, warned=asks, quiet=screen.quiet)

    confirming = confirm if asks else None
    return actions.deploy(request, pace, resume=resume, confirm=confirming, listen=listen, tell=tell).exit_code
