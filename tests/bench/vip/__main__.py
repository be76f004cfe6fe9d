"""Every fault of a balancer that has the common address, by one command; writes docs/reliability.md, ends the lab.

    make bench-vip

Boots a lab of two balancers and a gpu host, whose card and model server are SIMULATED. Needs root, as every lab does.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import page
from tests.pair import BALANCERS, OFTEN, Pair, made
from tests.pair_faults import FAULTS

PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
NAME = "bench-vip"
SETTLED = 5.0  # seconds after a fault until the holders are counted
DEATH, PLANNED = 3.0, 1.0  # seconds without service that may be
HEAD = ("event", "seconds without service", "lost requests", "holders after 5 s", "an open stream", "goal")


@dataclass(frozen=True)
class Row:
    """An event, as clients saw it.

    Args:
        event: the event.
        silence: seconds without service.
        lost: requests without an answer.
        holders: holders of the address five seconds after the event.
        stream: what an open stream saw.
        goal: allowed seconds without service.
        splits: whether the balancers are deaf to each other: both have the address.
    """

    event: str
    silence: float
    lost: int
    holders: int
    stream: str
    goal: float
    splits: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        met = self.silence <= self.goal and (self.holders == 1 or self.splits)
        goal = f"{self.goal:g} s: {'met' if met else '**lost**'}"
        return (self.event, f"{self.silence:.2f}", str(self.lost), str(self.holders), self.stream, goal)


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def during(pair: Pair, event: str, goal: float, happens: Callable[[], object], *, splits: bool = False) -> Row:
    """Probe the address during an event, with a stream open.

    Args:
        pair: the balancers.
        event: the event.
        goal: see `Row`.
        happens: makes the event.
        splits: see `Row`.
    """
    say(event)
    pair.speed(2, 80)
    stream = pair.stream()
    with pair.probing() as probe:
        happens()
        time.sleep(SETTLED / 2)
        tokens = stream.tokens
        time.sleep(SETTLED / 2)
        holders = len(pair.holders())
        open_stream = "goes on" if stream.tokens > tokens else "hangs"
    words = {"open": open_stream, "whole": "ends whole"}.get(stream.outcome, "is cut")
    pair.speed(60, 16)
    return Row(event, probe.silence, probe.lost, holders, words, goal, splits)


def faults(pair: Pair) -> list[Row]:
    """Every fault, and the return of the old holder."""
    rows = []
    for fault in FAULTS:
        pair.settled()
        holder = pair.holders()[0]
        rows.append(during(pair, fault.name, DEATH, _calls(fault.make, pair, holder), splits=fault.splits))
        if fault.returns:
            rows.append(during(pair, fault.returns, PLANNED, _calls(fault.mend, pair, holder)))
        else:
            fault.mend(pair, holder)
        pair.lab.host(holder).wait()
        pair.settled()
    return rows


def _calls(change: Callable[[Pair, str], None], pair: Pair, holder: str) -> Callable[[], None]:
    return lambda: change(pair, holder)


def planned(pair: Pair) -> list[Row]:
    """A switch by hand and by a deploy, each with a stream that ends in time."""

    def switched(*words: str) -> Callable[[], object]:
        def run() -> None:
            running = threading.Thread(target=pair.provision, args=words)
            running.start()
            time.sleep(2)
            pair.speed(60, 16)
            running.join()

        return run

    rows = [_whole(pair, "planned switch", switched("switch", "--json"))]
    pair.vars["balancer"]["read_timeout"] = "1700s"
    rows.append(_whole(pair, "deploy of another nginx.conf, with its switch", switched("deploy", "--yes", "--json")))
    return rows


def _whole(pair: Pair, event: str, happens: Callable[[], object]) -> Row:
    pair.settled()
    before = pair.holders()
    say(event)
    pair.speed(4, 60)
    stream = pair.stream()
    with pair.probing() as probe:
        happens()
        time.sleep(SETTLED)
        holders = pair.holders()
    if holders == before:
        raise SystemExit(f"{event}: the address did not move")
    outcome = stream.ended(120)
    words = {"whole": "ends whole", "open": "hangs"}.get(outcome, f"is cut ({outcome})")
    return Row(event, probe.silence, probe.lost, len(holders), words, PLANNED)


def main() -> None:
    """Measure, print, and put the table between its marks."""
    about = page.machine()
    with tempfile.TemporaryDirectory(prefix="bench-vip-") as folder:
        pair = made(NAME, Path(folder))
        try:
            rows = [*planned(pair), *faults(pair)]
        finally:
            pair.lab.down()
    how = (
        f"`make bench-vip`: {len(BALANCERS)} balancers of Debian 13 with keepalived in a lab, and a gpu host. The card"
        f" and the model server are SIMULATED. A probe asks each {OFTEN * 1000:.0f} ms by a new connection, and waits a"
        " second for an answer. Without service: from the begin of the first lost request to the next answer. The lab"
        " cuts the power by killing every process of the host, and the kernel still ends the streams: without power a"
        " real machine ends no stream, so a stream hangs as after a cut cable. If every packet is lost, the cut-off"
        " balancer has the address too, and two are counted."
    )
    text = f"Measured {about} {how}\n\n{page.table(HEAD, [row.cells for row in rows])}"
    page.write("vip", text, PAGE)
    print(text)


if __name__ == "__main__":
    main()
