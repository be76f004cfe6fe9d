"""Prints the state of the fleet: a table of instances, the worst first, then the balancers and the last runs.

A colour repeats the word of the state, and never stands alone. A screen of 80 columns has the essential columns, and a
wider screen has more.
"""

import datetime as dt
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from provision.actions.status import Status
from provision.actions.status_rows import WELL, BalancerRow, Row, short
from provision.report import console, layout, status_document
from provision.report.console import say
from provision.report.layout import count, names, paint, seen
from provision.terminal_text import line

COLOURS = {"ok": "green", "drained": "yellow", "cordoned": "yellow", "asking": "dim", "ends soon": "yellow"}
CLEAR = "\x1b[H\x1b[J"
UNKNOWN = "-"
WIDEST = 40  # columns of a name
NARROWEST = 12  # columns of a model
SHOWN = 6  # last runs to show
LEAST_IMPORTANT = ("AGE", "MEM", "BUSY")
"""The columns that a screen of 80 columns gives up for long names, in this order."""


class Column(NamedTuple):
    """A column of the table of instances.

    Args:
        title: the title.
        text: the text of a row.
        from_width: the narrowest screen that has the column.
        is_number: whether the texts stand at the right.
    """

    title: str
    text: Callable[[Row], str]
    from_width: int = 0
    is_number: bool = False


def show(status: Status, *, as_json: bool) -> None:
    """Print the state of the fleet, or the JSON document.

    Args:
        status: the state.
        as_json: whether the document is wanted.
    """
    if as_json:
        body = status_document.body(status)
        console.document("status", status.exit_code, status.inventory.warnings, **body)
        return
    for warning in status.inventory.warnings:
        console.warn(warning)
    for text, hang in lines(status, layout.width(sys.stdout)):
        say(text, hang)


def refresh(status: Status) -> None:
    """Print one of many screens: a terminal is cleared before, and a pipe gets one state after another.

    Args:
        status: the state.
    """
    if not sys.stdout.isatty():
        show(status, as_json=False)
        say()
        return
    width, height = layout.width(sys.stdout), layout.height(sys.stdout)
    *rest, verdict = [layout.wrap(text, hang, width) for text, hang in lines(status, width)]
    broken = [part for parts in rest for part in parts]
    room = height - 1 - len(verdict)
    if len(broken) > room:
        left = len(broken) - room + 1
        broken = [*broken[: room - 1], f"... {count(left, 'more line')}: a larger screen, or --limit"]
    print(CLEAR + "\n".join([*broken, *verdict]), flush=True)


def lines(status: Status, width: int) -> list[tuple[str, int]]:
    """Return the lines of the screen, each with the indentation of its continuation.

    Args:
        status: the state.
        width: columns of the screen.
    """
    text: list[tuple[str, int]] = []
    if status.rows:
        text += _instances(status.rows, width)
    if status.balancers:
        text += [("", 0)] if text else []
        text += _balancers(status.balancers)
    text += _runs(status)
    return [*text, (_summary(status), 2)]


def _instances(rows: Sequence[Row], width: int) -> list[tuple[str, int]]:
    columns = [column for column in COLUMNS if column.from_width <= width]
    cells = [[column.title, *(line(column.text(row), WIDEST) for row in rows)] for column in columns]
    kept = _fitting(dict(zip(columns, cells, strict=True)), width)
    right = [column.is_number for column in kept]
    states = [(row.state, list(_whys(row))) for row in rows]
    return _table([list(words) for words in zip(*kept.values(), strict=True)], right, states)


def _fitting(cells: dict[Column, list[str]], width: int) -> dict[Column, list[str]]:
    """Return the columns that fit a screen: columns without a text go first, then models are cut, and then the least
    important columns go.

    Args:
        cells: column -> its texts, the title first.
        width: columns of the screen.
    """
    kept = {
        column: texts
        for column, texts in cells.items()
        if not column.from_width or any(text not in ("", UNKNOWN) for text in texts[1:])
    }
    titles = {column.title: column for column in kept}
    model = titles["MODEL"]
    for title in LEAST_IMPORTANT:
        if (over := _total(kept) - width) > 0:
            room = max(NARROWEST, max(map(seen, kept[model])) - over)
            kept[model] = [line(text, room) for text in kept[model]]
        if _total(kept) > width:
            kept.pop(titles[title])
    return kept


def _total(cells: dict[Column, list[str]]) -> int:
    return sum(max(map(seen, texts)) + 1 for texts in cells.values()) - 1


def _table(
    cells: list[list[str]], right: Sequence[bool], states: Sequence[tuple[str, list[str]]]
) -> list[tuple[str, int]]:
    """Return the lines of a table whose second column is the state; below a row the evidence of each finding."""
    widths = [max(seen(row[column]) for row in cells) for column in range(len(cells[0]))]
    text: list[tuple[str, int]] = []
    for number, row in enumerate(cells):
        padded = [
            " " * (width - seen(word)) + word if at_right else word + " " * (width - seen(word))
            for word, width, at_right in zip(row, widths, right, strict=True)
        ]
        if not number:
            text.append((paint(" ".join(padded).rstrip(), "dim"), 2))
            continue
        state, whys = states[number - 1]
        padded[1] = paint(padded[1], COLOURS.get(state, "red"))
        text.append((" ".join(padded).rstrip(), 2))
        text += [(f"  {line(why, 600)}", 4) for why in whys]
    return text


def _whys(row: Row | BalancerRow) -> Iterator[str]:
    """Yield the evidence of each finding; a host without an answer has the age of its last answer."""
    for each in row.findings:
        old = each.state in ("unreachable", "failed") and row.age is not None
        if why := "; ".join(filter(None, (each.why, f"the last answer is {_age(row.age)} old" if old else ""))):
            yield why


def _states(row: Row | BalancerRow) -> str:
    more = len({each.state for each in row.findings}) - 1
    return f"{row.state} +{more}" if more > 0 else row.state


def _card(row: Row) -> str:
    if not row.cards:
        return UNKNOWN
    return short(row.cards[0].uuid) + (f"+{len(row.cards) - 1}" if len(row.cards) > 1 else "")


def _busy(row: Row) -> str:
    known = [card.busy for card in row.cards if card.busy is not None]
    return f"{max(known)}%" if known else UNKNOWN


def _memory(row: Row) -> str:
    known = [(card.used_mib, card.memory_mib) for card in row.cards if card.used_mib is not None and card.memory_mib]
    used, whole = sum(pair[0] or 0 for pair in known), sum(pair[1] or 0 for pair in known)
    return f"{100 * used / whole:.0f}%" if whole else UNKNOWN


def _heat(row: Row) -> str:
    known = [card.celsius for card in row.cards if card.celsius is not None]
    return f"{max(known)}C" if known else UNKNOWN


def _model(row: Row) -> str:
    if not row.models:
        return UNKNOWN
    more = len(row.models) - 1
    return line(row.models[0].name, 24) + (f" +{more}" if more else "")


def _on_gpu(row: Row) -> str:
    if row.on_gpu == "part":
        shares = [model.on_cards for model in row.models or () if model.on_cards is not None]
        return f"{100 * min(shares, default=0):.0f}%"
    return {"yes": "yes", "no": "NO", "unproved": "yes?"}.get(row.on_gpu, UNKNOWN)


def _context(row: Row) -> str:
    known = [model.context for model in row.models or () if model.context]
    return _thousands(max(known)) if known else UNKNOWN


def _thousands(number: int) -> str:
    return f"{number // 1024}k" if number >= 10240 else str(number)


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _per_second(row: Row) -> str:
    if row.per_second is None:
        return UNKNOWN
    return f"{row.per_second:.1f}" if 0 < row.per_second < 10 else f"{row.per_second:.0f}"


def _first_token(row: Row) -> str:
    return _seconds(row.recent.quantile(0.95))


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.2f}s" if value < 10 else f"{value:.0f}s"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return UNKNOWN
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _last_run(row: Row) -> str:
    return f"{row.run.kind} {row.run.result}" if row.run else UNKNOWN


COLUMNS = (
    Column("INSTANCE", lambda row: f"{row.host}/{row.instance}" if row.instance else row.host),
    Column("STATE", _states),
    Column("CARD", _card),
    Column("BUSY", _busy, is_number=True),
    Column("MEM", _memory, is_number=True),
    Column("TEMP", _heat, from_width=100, is_number=True),
    Column("MODEL", _model),
    Column("GPU", _on_gpu),
    Column("CTX", _context, from_width=90, is_number=True),
    Column("OPEN", lambda row: _number(row.in_flight), is_number=True),
    Column("TOK/S", _per_second, is_number=True),
    Column("TTFT95", _first_token, is_number=True),
    Column("AGE", lambda row: _age(row.age), is_number=True),
    Column("REQUESTS", lambda row: str(row.recent.requests), from_width=120, is_number=True),
    Column("FAILED", lambda row: str(row.recent.failed), from_width=120, is_number=True),
    Column("LAST RUN", _last_run, from_width=120),
)


def _balancers(rows: Sequence[BalancerRow]) -> list[tuple[str, int]]:
    heads = ["BALANCER", "STATE", "GENERATION", "CERTIFICATE", "ADDRESS", "OPEN", "REQUESTS", "REFUSED", "AGE"]
    cells = [heads, *([line(word, WIDEST) for word in _balancer(row)] for row in rows)]
    right = [head in ("OPEN", "REQUESTS", "REFUSED", "AGE") for head in heads]
    return _table(cells, right, [(row.state, list(_whys(row))) for row in rows])


def _balancer(row: BalancerRow) -> list[str]:
    balancer = row.balancer
    state = balancer.state if balancer else None
    address = {True: "holder", False: "standby"}.get(bool(balancer.holds)) if balancer and balancer.vip else ""
    return [
        row.host,
        _states(row),
        (state.generation if state else "") or UNKNOWN,
        UNKNOWN if row.days is None else f"{row.days} days",
        address or UNKNOWN,
        _number(row.in_flight),
        str(row.requests),
        str(balancer.log.refused) if balancer and balancer.log else UNKNOWN,
        _age(row.age),
    ]


def _runs(status: Status) -> list[tuple[str, int]]:
    """Return the last runs, each with its hosts, and the hosts that a run has locked."""
    hosts: dict[str, list[str]] = {}
    entries = {one.run.run: one.run for one in status.hosts if one.run}
    for one in status.hosts:
        if one.run:
            hosts.setdefault(one.run.run, []).append(one.host.name)
    text = [("", 0)] if entries else []
    for run in sorted(entries, reverse=True)[:SHOWN]:
        entry = entries[run]
        words = f"last run {run}: {entry.command or 'unknown'}, {entry.result}{_since(entry.time, status.at)}"
        text.append((f"{line(words, 300)}, on {names(hosts[run])}", 2))
    holders = {str(one.holder): one.host.name for one in status.hosts if one.holder}
    return [*text, *((f"locked: {host} by {line(holder, 300)}", 2) for holder, host in sorted(holders.items()))]


def _since(begin: str, now: float) -> str:
    try:
        then = dt.datetime.fromisoformat(begin)
        return f", {_age(max(0.0, now - then.timestamp()))} ago" if then.tzinfo else ""
    except (ValueError, OverflowError):
        return ""


def _summary(status: Status) -> str:
    counted = ", ".join(f"{number} {state}" for state, number in status.counts.items())
    time = dt.datetime.fromtimestamp(status.at, dt.UTC).strftime("%H:%M:%S UTC")
    oldest = max((one.age for one in status.hosts if one.age is not None), default=None)
    verdict = "all is well" if status.is_well else f"{count(_findings(status), 'finding')}, the worst first"
    figures = f"tokens and times of the last {status.window // 60} minutes"
    about = f"{count(len(status.hosts), 'host')}: {counted}; as of {time}, the oldest row {_age(oldest)}; {figures}"
    return f"{paint(verdict, 'bold')}: {about}"


def _findings(status: Status) -> int:
    every: list[Row | BalancerRow] = [*status.rows, *status.balancers]
    return sum(each.state not in WELL for row in every for each in row.findings)
