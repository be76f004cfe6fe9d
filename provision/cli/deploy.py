"""`provision deploy`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, common_options, seconds_of
from provision.cli.plan import show

if TYPE_CHECKING:
    from provision.actions import DeployResult, Plan, Request


@click.command()
@common_options
@click.option("-C", "--check", "--dry-run", is_flag=True, help="Only plan.")
@click.option("-D", "--diff", is_flag=True, help="With the plan, show what would change in files.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--serial", default="", metavar="N|P%", help="So many hosts at a time.  [default: --forks]")
@click.option("--canary", is_flag=True, help="One gpu host alone; the others only if all is well there.")
@click.option("--max-fail", default="", metavar="N|P%", help="Stop when more hosts than this fail.  [default: never]")
@click.option("--lock-wait", default="0", metavar="DURATION", help="Wait so long for a host that somebody else has.")
@click.option(
    "--resume", default="", metavar="RUN", help="Go on with a run that was killed: its hosts, roles and pace."
)
def deploy(
    request: Request,
    screen: Screen,
    check: bool,
    diff: bool,
    yes: bool,
    serial: str,
    canary: bool,
    max_fail: str,
    lock_wait: str,
    resume: str,
) -> int:
    """Make the hosts what the inventory says. What is as it should be is not touched."""
    from provision import actions
    from provision.errors import UsageError

    pace = actions.Pace(serial, canary, max_fail, seconds_of(lock_wait, "--lock-wait", least=0))
    listen = screen.progress()
    if check:
        found = actions.plan(request, resume=resume, listen=listen)
        show(found, screen, found.exit_code, diff=diff)
        return found.exit_code
    asks = not yes and screen.asks
    if not (yes or asks):
        raise UsageError("without a terminal deploy does not ask", "say --yes, or look at `provision plan` first")

    def confirm(found: Plan) -> bool:
        show(found, screen, found.exit_code, diff=diff)
        return not found.is_none and click.confirm("Deploy this?", abort=True)

    result = actions.deploy(
        request,
        pace,
        resume=resume,
        confirm=confirm if asks else None,
        listen=listen,
        tell=lambda result: _tell(result, screen, warned=asks),
    )
    return result.exit_code


def _tell(result: DeployResult, screen: Screen, *, warned: bool) -> None:
    """Print what came of it; warnings of clocks unless the plan showed them."""
    from provision.report import console, next_command, recap

    if screen.as_json:
        console.document("deploy", result.exit_code, result.warnings, **result.document())
        return
    for warning in result.clocks if not warned else ():
        console.warn(warning)
    recap.text(result.outcomes, result.run_id, next_command.after_deploy(result))
