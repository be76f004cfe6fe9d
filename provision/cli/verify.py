"""`provision verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, listing_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@listing_options
@click.option("--junit", metavar="FILE", default="", help="Also write JUnit XML.")
@click.option("--deep", is_flag=True, help="Also hash the files of all models: about 80 s for each 40 GB at 500 MB/s.")
def verify(request: Request, screen: Screen, junit: str, deep: bool) -> int:
    """Read every host as plan does, then prove every step by testinfra. Changes nothing.

    Whatever a deploy would change is a failed check. -v also lists the steps that passed.

    --deep finds damage that keeps a file's size: no plain proof and no server sees such damage. All hosts hash at once,
    each its own files one after another, at low priority and without a lock: no deploy waits. A host keeps a note of
    each damaged file in /var/lib/provision/damaged, so the next deploy pulls the file again and restarts the instance.
    After Ctrl-C a host hashes on to its end; another --deep then goes on with that job.
    """
    from provision import actions
    from provision.report import verify as report

    result = actions.verify(request, junit=junit, deep=deep, listen=screen.progress())
    report.show(request, result, as_json=screen.as_json, verbose=screen.verbose, quiet=screen.quiet)
    return result.exit_code
