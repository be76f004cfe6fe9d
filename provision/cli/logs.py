"""`provision logs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.moments import moment
from provision.cli.options import Screen, log_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@click.argument("words", nargs=-1, metavar="[PATTERN[/LOG]]...")
@log_options
@click.option("-f", "--follow", is_flag=True, help="Also the lines that come, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(0, 10_000), metavar="N", help="Lines of each log.  [default: 100]")
@click.option("--since", metavar="WHEN", help="Only lines from then on: a date (UTC), or a duration such as 10m.")
@click.option("--grep", default="", metavar="REGEX", help="Only lines with this extended regular expression.")
def logs(
    request: Request,
    screen: Screen,
    words: tuple[str, ...],
    follow: bool,
    lines: int | None,
    since: str | None,
    grep: str,
) -> int:
    """Show the logs of instances and balancers, from all hosts at once, each line behind HOST/LOG.

    gpu-02 means all instances of the host, gpu-02/ollama1 a single instance, lb-01/access the requests of a balancer,
    lb-01/error its errors, and 'balancer' all balancers. Without --follow the lines of all hosts come by their times.
    Changes nothing. The log of requests has no prompts and no keys; secrets of the inventory are masked.
    """
    from provision.actions import logs as actions
    from provision.actions.asking import setup_of
    from provision.errors import UsageError
    from provision.report import logs as report

    begin = moment(since, "--since", setup_of(request).clock(), ahead=False) if since is not None else None
    wanted = actions.Wanted(lines, begin, grep)
    if not follow:
        found = actions.logs(request, words, wanted)
        report.show(found, as_json=screen.as_json)
        return found.exit_code
    if screen.as_json:
        raise UsageError("--follow does not go with --json: a command prints one document", "leave out --follow")
    try:
        report.follow(actions.follow(request, words, wanted))
    except KeyboardInterrupt:  # the usual end
        return 130
    return 3
