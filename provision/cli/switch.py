"""`provision switch`: an operator moves the common address of the balancers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, seconds_of, switch_options

if TYPE_CHECKING:
    from provision.actions import Request, SwitchResult


@click.command()
@click.argument("host", required=False, default="")
@switch_options
@click.option(
    "--timeout",
    default="",
    metavar="DURATION",
    help="Wait at most so long for open streams, then cut them.  [default: balancer.shutdown_timeout]",
)
@click.option("--force", is_flag=True, help="Switch even to a balancer that sends to other instances.")
def switch(request: Request, screen: Screen, host: str, lock_wait: str, timeout: str, force: bool) -> int:
    """Move the common address (`balancer.vip`) to the balancer HOST, or to the first other balancer that is well.

    New requests go to the next balancer at once. The address moves when the streams of the present holder have ended,
    so a switch cuts no stream. The balancer before stays as a standby, and nothing moves the address back.
    """
    from provision import actions
    from provision.report import switch as report

    own = [*(["--timeout", timeout] if timeout else []), *(["--force"] if force else [])]

    def tell(result: SwitchResult) -> None:
        report.show(result, as_json=screen.as_json, own=own, quiet=screen.quiet)

    result = actions.switch(
        request,
        host,
        actions.Pace(lock_wait=seconds_of(lock_wait, "--lock-wait", least=0)),
        timeout=seconds_of(timeout, "--timeout", least=0) if timeout else None,
        force=force,
        listen=screen.progress(),
        tell=tell,
    )
    return result.exit_code
