"""`provision usage`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.moments import moment
from provision.cli.options import Screen, host_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@host_options
@click.option(
    "--since",
    default="24h",
    show_default=True,
    metavar="WHEN",
    help="Only requests from then on: a date such as 2026-12-01 (UTC), or a duration such as 7d.",
)
@click.option(
    "--by", default="client,key,model", show_default=True, metavar="NAMES", help="A row for each of these names."
)
def usage(request: Request, screen: Screen, since: str, by: str) -> int:
    """Show who used what: requests, tokens and seconds by client, key and model, and refusals by reason.

    Each balancer adds up its own access logs, rotated logs too. Changes nothing and takes no lock.
    """
    from provision.actions.asking import setup_of
    from provision.actions.usage import usage as read
    from provision.report import usage as report

    begin = moment(since, "--since", setup_of(request).clock(), ahead=False)
    found = read(request, begin, [name.strip() for name in by.split(",")])
    report.show(found, as_json=screen.as_json)
    return found.exit_code
