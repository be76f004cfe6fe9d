"""Tables of figures in docs/performance.md, between the marks of the command that writes them."""

import datetime as dt
import os
import platform
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        head: names of the columns.
        rows: cells of each row.
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def machine() -> str:
    """The machine and the time of the measurement, in one line."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    cpu = names[0] if names else platform.machine()
    return (
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, load before {load:.1f}."
    )


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Replace the text between a command's marks; the rest of the page is written by hand and stays.

    Args:
        name: name of the marks, `<!-- NAME -->` and `<!-- /NAME -->`; a page without marks gets them at its end.
        text: Markdown.
        page: the file.
    """
    opening, closing = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    old = page.read_text() if page.exists() else ""
    if opening not in old or closing not in old:
        old = f"{old}\n{opening}{closing}"
    before, _, rest = old.partition(opening)
    after = rest.partition(closing)[2]
    page.write_text(f"{before}{opening}{text.strip()}\n{closing}{after}")
