"""`provision facts`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, host_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@host_options
def facts(request: Request, screen: Screen) -> int:
    """Show system, Docker, disks and cards of each host, and who uses the cards. Changes nothing and takes no lock."""
    from provision.actions.facts import facts as read
    from provision.report import facts as report

    found = read(request)
    report.show(found, as_json=screen.as_json)
    return found.exit_code
