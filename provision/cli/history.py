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
    from provision.report import console
    from provision.report import history as report

    found = actions.history(request, number)
    if screen.as_json:
        body = {**report.history_document(found.hosts, number), "unfinished": report.unfinished(found.died)}
        console.document("history", found.exit_code, found.inventory.warnings, **body)
    else:
        report.history_text(found.hosts, number)
        report.died(found.died)
    return found.exit_code


@click.command()
@click.argument("run", metavar="RUN")
@host_options
def show(request: Request, screen: Screen, run: str) -> int:
    """What a run did: on each host its steps, why, what they changed, and what came of it."""
    from provision import actions
    from provision.report import console
    from provision.report import history as report

    found = actions.show(request, run)
    if screen.as_json:
        body = report.story_document(run, found.hosts)
        console.document("show", found.exit_code, found.inventory.warnings, **body)
    else:
        report.story_text(run, found.hosts)
        report.died(found.died)
    return found.exit_code
