"""`provision history` and `provision show`: what runs did, as the hosts themselves remember it."""

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
    """The runs that changed these hosts, the newest first: who, when, and what came of it."""
    from provision import actions
    from provision.report.history import show_history

    runs = actions.history(request, number)
    show_history(runs, number, as_json=screen.as_json)
    return runs.exit_code


@click.command()
@click.argument("run", metavar="[RUN]", required=False, default="")
@host_options
def show(request: Request, screen: Screen, run: str) -> int:
    """What a run did: on each host its steps, why, what they changed, and what came of it.

    Without RUN it is the last run that any of the hosts knows.
    """
    from provision import actions
    from provision.report.history import show_story

    story = actions.show(request, run)
    show_story(story, as_json=screen.as_json)
    return story.exit_code
