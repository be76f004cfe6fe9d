"""The tables of docs/reliability.md: the result of every fault."""

import datetime as dt
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.bench.page import table, write

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
CLASSES = {
    "connection": "The connection is cut at every step",
    "controller": "The controller is killed at every step",
    "disk": "No room",
    "apt": "apt and its mirror",
    "docker": "Docker stopped, wedged, restarted",
    "image": "The image cannot be pulled",
    "build": "nginx cannot be built",
    "nginx": "nginx refuses, dies, finds its port taken; templates render garbage",
    "instance": "An instance is ill",
    "login": "Between sshd and a root shell",
    "clock": "The clock is off",
    "operators": "Two operators",
    "host_key": "Another host answers",
    "network": "A bad line, or none",
    "host": "A host that is not as the inventory says",
}
"""Class -> its heading; a class is the file tests/faults/test_CLASS.py."""
HEAD = ("fault", "exit", "what it said", "seconds", "second deploy", "seen (UTC)")
SAID = 160  # characters of a sentence in the table
_MIRROR = re.compile(r"\b(https?://)[^/\s']+")  # the mirror's address belongs to this machine alone
_ADDRESS = re.compile(r"\b10\.213\.\d+\.(\d+)\b")


def read(record: Path) -> list[Mapping[str, Any]]:
    """The cases of a record; of repeated cases the last."""
    rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    return list({(row["class"], row["case"]): row for row in rows}.values())


def publish(
    rows: Iterable[Mapping[str, Any]], command: str, seconds: float, *, whole: bool = False, page: Path = PAGE
) -> None:
    """Write the results into the page.

    Args:
        rows: the cases.
        command: the command of the run.
        seconds: duration of the whole run.
        whole: whether the run had all cases; otherwise the page keeps the rows of the rest.
        page: the file.
    """
    rows_of = {name: {} if whole else there(name, page) for name in CLASSES}
    for row in rows:
        rows_of[row["class"]][row["case"]] = _cells(row)
    for name, heading in CLASSES.items():
        text = f"### {heading}\n\n{table(HEAD, list(rows_of[name].values()))}" if rows_of[name] else f"### {heading}\n"
        write(f"faults {name}", text, page)
    write("faults", _summary(rows_of, command, seconds), page)


def there(name: str, page: Path = PAGE) -> dict[str, tuple[str, ...]]:
    """The rows of a class in the page: case -> cells."""
    said = page.read_text() if page.exists() else ""
    part = said.partition(f"<!-- faults {name} -->\n")[2].partition("<!-- /faults")[0]
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return {cells[0]: tuple(cells) for cells in lines[2:]}


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    said = _MIRROR.sub(r"\1mirror", _ADDRESS.sub(r"10.0.0.\1", row["said"])).replace("|", "/")
    said = f"{said[:SAID]}..." if len(said) > SAID else said
    code = row["code"] if row["passed"] else f"{row['code']} FAILED"
    again = row["again"].replace("the next case goes on from here", "goes on")
    return row["case"], code, f"`{said}`" if said else "", str(row["seconds"]), again, row["at"]


def _summary(found: Mapping[str, Mapping[str, tuple[str, ...]]], command: str, seconds: float) -> str:
    rows = [(name, cells) for name, cases in found.items() for cells in cases.values()]
    classes = [
        (
            CLASSES[name],
            str(len(cases)),
            str(sum("FAILED" not in cells[1] for cells in cases.values())),
            f"{sum(int(cells[3]) for cells in cases.values()) / 60:.0f}",
        )
        for name, cases in found.items()
    ]
    total = sum(int(cells[3]) for _, cells in rows) / 60
    last = f"Last run: `{command}`, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {seconds / 60:.0f} minutes."
    alltogether = f"{len(rows)} cases; their times add up to {total:.0f} minutes."
    return f"{last} {alltogether}\n\n{table(('class', 'cases', 'as they must be', 'minutes'), classes)}"
