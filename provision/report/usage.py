"""Prints who used what: a table of clients, keys and models, then the refusals by reason."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from provision.actions.usage import NAMES, Usage, Used
from provision.errors import HostError
from provision.inventory import Host
from provision.report import console
from provision.report.console import failures, say
from provision.report.keys import time_of, words_of
from provision.report.layout import count, paint
from provision.steps.nginx.access_log import AccessLog
from provision.terminal_text import line

NUMBERS = ("REQUESTS", "TOKENS IN", "TOKENS OUT", "SECONDS", "FAILED", "REFUSED")
WIDEST = 60  # characters of a name
NOBODY = "-"


def show(usage: Usage, *, as_json: bool) -> None:
    """Print the requests of all balancers, or the JSON document.

    Args:
        usage: of every balancer.
        as_json: whether the document is wanted.
    """
    if as_json:
        _print_document(usage)
        return
    for warning in (*usage.inventory.warnings, *_warnings(usage)):
        console.warn(warning)
    rows = usage.rows
    if rows:
        _table(usage, rows)
        _refusals(rows)
    for remark in _remarks(usage, rows):
        say(remark, hang=2)
    failures(((host.name, answer) for host, answer in usage.hosts if isinstance(answer, HostError)), usage.inventory)


def _print_document(usage: Usage) -> None:
    hosts = [_host(host, answer) for host, answer in usage.hosts]
    body = {"since": time_of(usage.since), "by": list(usage.by), "hosts": hosts, "rows": list(map(_row, usage.rows))}
    console.document("usage", usage.exit_code, (*usage.inventory.warnings, *_warnings(usage)), **body)


def _table(usage: Usage, rows: Sequence[Used]) -> None:
    names = [name for name in NAMES if name in usage.by]
    cells = [[*(name.upper() for name in names), *NUMBERS]]
    cells += [[*(line(getattr(row, name) or NOBODY, WIDEST) for name in names), *_numbers(row)] for row in rows]
    if len(rows) > 1:
        cells.append(["all", *[""] * (len(names) - 1), *_numbers(_sum(rows))])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for number, row in enumerate(cells):
        texts = [
            f"{text:{width}}" if column < len(names) else f"{text:>{width}}"
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        text = "  ".join(texts).rstrip()
        say(paint(text, "dim") if not number else text, hang=widths[0] + 2)


def _numbers(row: Used) -> list[str]:
    mark = "~" if row.estimated else ""
    tokens = [f"{mark}{number}" for number in (row.tokens_in, row.tokens_out)]
    return [str(row.requests), *tokens, f"{row.seconds:.1f}", str(row.failed), str(row.refused.total())]


def _sum(rows: Sequence[Used]) -> Used:
    total = Used("", "", "")
    for row in rows:
        total.requests += row.requests
        total.tokens_in += row.tokens_in
        total.tokens_out += row.tokens_out
        total.seconds += row.seconds
        total.estimated += row.estimated
        total.failed += row.failed
        total.refused += row.refused
    return total


def _refusals(rows: Sequence[Used]) -> None:
    """Print the refused requests by reason, with the clients."""
    totals: Counter[tuple[int, str]] = Counter()
    clients: dict[tuple[int, str], Counter[str]] = {}
    for row in rows:
        totals += row.refused
        for why, number in row.refused.items():
            clients.setdefault(why, Counter())[row.client or NOBODY] += number
    for (status, reason), number in totals.most_common():
        who = ", ".join(f"{line(client, WIDEST)} {many}" for client, many in clients[status, reason].most_common(4))
        say(f"refused: {number} with {status}, {line(reason, WIDEST)} ({who})", hang=2)


def _remarks(usage: Usage, rows: Sequence[Used]) -> Iterator[str]:
    """Yield the lines below the table."""
    if estimated := sum(row.estimated for row in rows):
        yield (
            f"~ tokens of {count(estimated, 'request')} are estimated: the client left early, or did not ask for"
            " stream_options.include_usage"
        )
    if usage.uncounted:
        yield f"tokens of {count(usage.uncounted, 'request')} are unknown: nobody counted tokens at that time"
    begins = [(name, log.begins) for name, log in usage.logs.items()]
    told = {name: f"begin {words_of(begin)}" if begin is not None else "have no request" for name, begin in begins}
    for name, words in told.items():
        yield f"since {words_of(usage.since)}; the logs of {name} {words}"


def _warnings(usage: Usage) -> Iterator[str]:
    for name, log in usage.logs.items():
        if log.begins is not None and log.begins > usage.since:
            yield f"the logs of {name} begin {words_of(log.begins)}: requests before that time are missing"
        if log.damaged:
            yield f"{name}: {count(log.damaged, 'rotated log')} cannot be unpacked: its requests are missing"
        if log.unread:
            yield f"{name}: {count(log.unread, 'line')} of the logs are no requests"


def _host(host: Host, answer: AccessLog | HostError) -> dict[str, Any]:
    if isinstance(answer, HostError):
        body = dict.fromkeys(("begins", "uncounted", "unread", "damaged"))
        return {"host": host.name, "result": console.result_of(answer), "why": answer.message, **body}
    return {
        "host": host.name,
        "result": "ok",
        "why": "",
        "begins": time_of(answer.begins),
        "uncounted": sum(row.uncounted for row in answer.rows),
        "unread": answer.unread,
        "damaged": answer.damaged,
    }


def _row(row: Used) -> dict[str, Any]:
    refused = [
        {"status": status, "reason": reason, "requests": number}
        for (status, reason), number in row.refused.most_common()
    ]
    return {**vars(row), "seconds": round(row.seconds, 3), "refused": refused}
