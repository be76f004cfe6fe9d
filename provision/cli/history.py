"""`provision history` and `provision show`: the runs in the journals of the hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, host_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@host_options
@click.option("-n", "--number", default=20, show_default=True, type=click.IntRange(1, 1000), help="So many runs.")
def history(request: Request, screen: Screen, number: int) -> int:
    """List the runs on these hosts, the newest first: operator, time and results."""
    from provision import actions
    from provision.report.history import show_history

    runs = actions.history(request, number)
    show_history(runs, number, as_json=screen.as_json)
    return runs.exit_code


@click.command()
@click.argument("run", metavar="[RUN]", required=False, default="")
@host_options
def show(request: Request, screen: Screen, run: str) -> int:
    """Show a run step by step: on each host the reason, the change and the result.

    Without RUN the command shows the last run in any journal.
    """
    from provision import actions
    from provision.report.history import show_story

    story = actions.show(request, run)
    show_story(story, as_json=screen.as_json)
    return story.exit_code
