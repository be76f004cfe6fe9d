"""`provision status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, host_options, seconds_of

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@host_options
@click.option("-w", "--watch", is_flag=True, help="Show the state again and again, until Ctrl-C.")
@click.option(
    "--every", default="5s", show_default=True, metavar="DURATION", help="Time between two screens of --watch."
)
@click.option(
    "--last", default="5m", show_default=True, metavar="DURATION", help="Requests of so long for tokens and times."
)
def status(request: Request, screen: Screen, watch: bool, every: str, last: str) -> int:
    """Show whether all is well: every instance, its card, model and requests, and every balancer; the worst first.

    Asks each host in one exec. Changes nothing and takes no lock. The exit code is 0 if all is well, and 5 for a
    finding; a drained instance alone is no finding. With --watch the connections stay open, and a host without an
    answer keeps its last row, with its age.
    """
    from provision.actions import status as states
    from provision.errors import UsageError
    from provision.report import status as report

    window = round(seconds_of(last, "--last", least=10))
    pause = seconds_of(every, "--every", least=1)
    if not watch:
        found = states.status(request, window)
        report.show(found, as_json=screen.as_json)
        return found.exit_code
    if screen.as_json:
        raise UsageError("--watch does not go with --json: a command prints one document", "leave out --watch")
    try:
        for found in states.watch(request, window, pause):
            report.refresh(found)
    except KeyboardInterrupt:  # the usual end
        return 130
    return 0
