"""The measurements: kept line by line, so that a broken-off bench can go on; and as tables."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench import page

NOOP, CHANGE = "nothing to change", "a weight changed"


@dataclass(frozen=True)
class Record:
    """One run of one tool.

    Args:
        kind: `NOOP` or `CHANGE`.
        hosts: number of hosts.
        rtt: delay in milliseconds.
        tool: name of the tool.
        round: number of the round, from 1.
        wall: seconds.
        cpu: seconds of CPU on the controller.
        memory: MiB, of the largest process.
        connections: logins to one host.
        execs: sessions of one host's sshd.
        wire: bytes to and from all hosts, as on the wire.
        host_cpu: seconds of CPU of one host.
        failed: why the run does not count; empty for a run that counts.
    """

    kind: str
    hosts: int
    rtt: float
    tool: str
    round: int
    wall: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0
    connections: int = 0
    execs: int = 0
    wire: int = 0
    host_cpu: float = 0.0
    failed: str = ""


Cell = tuple[int, float]


_DEPLOY = (NOOP, "provision deploy")
_RATIOS = {
    (_DEPLOY, (NOOP, "floor")): ("deploy to floor", "at most 1.5"),
    ((NOOP, "provision plan"), (NOOP, "floor")): ("plan to floor", "at most 1.5"),
    ((CHANGE, "provision deploy"), (NOOP, "floor")): ("a weight changed to the floor", "at most 2.5"),
    ((CHANGE, "provision deploy"), (CHANGE, "floor")): ("a weight changed to one command", "at most 2.5"),
    ((CHANGE, "provision deploy -t balancer"), (CHANGE, "floor")): ("the same with `--tags balancer`", "at most 2.5"),
    ((NOOP, "provision verify"), _DEPLOY): ("verify to deploy", "at most 3 at 30 ms"),
    ((NOOP, "pyinfra"), _DEPLOY): ("pyinfra to deploy", "at least 2.5"),
    ((NOOP, "ansible-core"), _DEPLOY): ("ansible-core to deploy", "at least 10"),
}


def _title(cell: Cell) -> str:
    hosts, rtt = cell
    return f"{hosts} host{'s' * (hosts != 1)}, {rtt:g} ms"


class Results:
    """All records of a bench.

    Args:
        path: the file of the records.
        resume: whether to keep the records in the file; else the file is begun anew.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if not resume:
            path.write_text("")
        self.records = [Record(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def add(self, record: Record) -> None:
        """Keep a record."""
        self.records.append(record)
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def of(self, kind: str, cell: Cell, tool: str) -> list[Record]:
        """The records of a tool at a number of hosts and a delay."""
        return [r for r in self.records if (r.kind, (r.hosts, r.rtt), r.tool) == (kind, cell, tool)]

    def wall(self, kind: str, cell: Cell, tool: str) -> float | None:
        """Median seconds, or None where no run counted."""
        return self._median("wall", self.of(kind, cell, tool))

    def _median(self, name: str, records: Sequence[Record]) -> float | None:
        found = [getattr(record, name) for record in records if not record.failed]
        return float(statistics.median(found)) if found else None

    @property
    def cells(self) -> list[Cell]:
        """Every number of hosts with every delay, in order."""
        return sorted({(record.hosts, record.rtt) for record in self.records})

    def _tools(self, kind: str) -> list[str]:
        return list(dict.fromkeys(record.tool for record in self.records if record.kind == kind))

    def seconds(self, kind: str) -> str:
        """The table of medians, each with its multiple of the floor."""
        head = [kind, *map(_title, self.cells)]
        rows = [[tool, *(self._second(kind, cell, tool) for cell in self.cells)] for tool in self._tools(kind)]
        return page.table(head, rows)

    def _second(self, kind: str, cell: Cell, tool: str) -> str:
        wall, floor = self.wall(kind, cell, tool), self.wall(kind, cell, "floor")
        if wall is None:
            return "failed" if self.of(kind, cell, tool) else "-"
        rounds = sum(not record.failed for record in self.of(kind, cell, tool))
        times = f" ({wall / floor:.1f})" if floor and tool != "floor" else ""
        return f"{wall:.2f}{times}{' ¹' if rounds == 1 else ''}"

    def targets(self) -> str:
        """The table of the ratios with an aim."""
        head = ["ratio", "aim", *map(_title, self.cells)]
        return page.table(head, [[*_RATIOS[key], *(self._ratio(*key, cell) for cell in self.cells)] for key in _RATIOS])

    def _ratio(self, above: tuple[str, str], below: tuple[str, str], cell: Cell) -> str:
        one, other = self.wall(above[0], cell, above[1]), self.wall(below[0], cell, below[1])
        return f"{one / other:.1f}" if one and other else "-"

    def costs(self, kind: str, cell: Cell) -> str:
        """The table of a run's costs besides time.

        Args:
            kind: kind of run.
            cell: hosts and delay.
        """
        head = [
            f"{kind}, {_title(cell)}",
            "CPU, s",
            "largest process, MiB",
            "connections",
            "execs",
        ]
        rows = [[tool, *self._cost(kind, cell, tool)] for tool in self._tools(kind)]
        return page.table([*head, "kB on the wire per host", "CPU of a host, s", "round trips"], rows)

    def _cost(self, kind: str, cell: Cell, tool: str) -> list[str]:
        found = self.of(kind, cell, tool)
        values = [self._median(name, found) for name in ("cpu", "memory", "connections", "execs", "wire", "host_cpu")]
        if None in values:
            return ["-"] * 7
        cpu, memory, connections, execs, wire, host_cpu = (value or 0.0 for value in values)
        shown = [f"{cpu:.2f}", f"{memory:.0f}", f"{connections:.0f}", f"{execs:.0f}", f"{wire / cell[0] / 1000:.0f}"]
        return [*shown, f"{host_cpu:.2f}", self._round_trips(kind, cell[0], tool)]

    def _round_trips(self, kind: str, hosts: int, tool: str) -> str:
        """Number of delays in a row in a run: the extra time with a delay, divided by the delay."""
        near, far = (min(c for c in self.cells if c[0] == hosts), max(c for c in self.cells if c[0] == hosts))
        walls = [self.wall(kind, cell, tool) for cell in (near, far)]
        if near == far or walls[0] is None or walls[1] is None:
            return "-"
        return f"{(walls[1] - walls[0]) / (far[1] - near[1]) * 1000:.0f}"

    def failures(self) -> list[str]:
        """The failures, with their evidence."""
        return [
            f"* {r.tool}, {r.kind}, {r.hosts} hosts, {r.rtt:g} ms, round {r.round}: `{r.failed}`"
            for r in self.records
            if r.failed
        ]
