"""Measure `provision` and its peers on the same hosts with the same job, and write docs/performance.md."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.bench import page
from tests.bench.fleet import Fleet, booted, delay, taken_down
from tests.bench.measure import BenchError, Sample, expect, measured
from tests.bench.peers.counters import counting
from tests.bench.peers.install import PINNED, cache, installed
from tests.bench.peers.job import Job
from tests.bench.peers.ladder import ladder
from tests.bench.peers.results import CHANGE, NOOP, Cell, Record, Results
from tests.bench.peers.tools import Tool, floor_of_change, tools

SLOW = 20.0  # seconds; a slower tool is measured in one round only, or the bench would take an hour
# Packages that Ansible's modules apt and docker_container need on the hosts.
_FOR_ANSIBLE = ("python3-apt", "python3-requests")


def main() -> None:
    """Boot the lab, measure round by round, write, take the lab down."""
    options = _options()
    about = page.machine()
    programs = dict(_programs())
    results = Results(cache() / "results.jsonl", resume=options.resume)
    with taken_down(options.lab):
        for hosts in sorted(options.hosts):
            job = _prepared(options.lab, hosts, whole=options.job == "whole")
            if hosts == min(options.hosts):
                page.write("bench-ladder", f"Measured {about}\n\n{ladder(job)}")
            for rtt in sorted(options.rtt):
                delay(job.fleet.lab, rtt)
                try:
                    _Cell(job, tools(job, programs), results, (hosts, rtt)).measure(options.rounds)
                finally:
                    page.write("bench", _text(results, about, " ".join(sys.argv[1:])))
    _say(_text(results, about, " ".join(sys.argv[1:])))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=_numbers(int), default=[1, 4, 12], help="how many hosts: 1,4,12")
    parser.add_argument("--rtt", type=_numbers(float), default=[0.0, 30.0], help="round-trip delays in ms: 0,30")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--job", choices=["whole", "short"], default="whole", help="what the peers look after")
    parser.add_argument("--lab", default="bench", help="name of the lab that is booted")
    parser.add_argument("--resume", action="store_true", help="go on where the last bench was broken off")
    return parser.parse_args()


def _programs() -> Iterator[tuple[str, Path]]:
    """The peers' programs; a peer that cannot be installed is left out, with a line of output."""
    for name in PINNED:
        try:
            yield name, installed(name, _say)
        except subprocess.CalledProcessError as error:
            _say(f"{name} is left out: it could not be installed: {error}")


def _numbers(kind: type) -> Callable[[str], list[float]]:
    return lambda text: [kind(word) for word in text.split(",")]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _prepared(lab: str, hosts: int, *, whole: bool) -> Job:
    """The job of `hosts` hosts: deployed, with the packages that the peers need and the counters on."""
    fleet = Fleet(booted(lab, hosts, _say))
    _say(f"deploying to {hosts} hosts")
    delay(fleet.lab, 0)
    fleet.prepared()
    for host in fleet.lab.hosts():
        host.run(["apt-get", "-q", "update"])
        host.run(["apt-get", "install", "-qy", *_FOR_ANSIBLE])
    fleet.deployed()
    return Job(fleet, whole=whole)


class _Cell:
    """One number of hosts with one delay.

    Args:
        job: the job.
        chosen: the tools.
        results: takes the records.
        cell: hosts and delay.
    """

    def __init__(self, job: Job, chosen: Sequence[Tool], results: Results, cell: Cell) -> None:
        self._job = job
        self._tools = chosen
        self._results = results
        self._cell = cell

    def measure(self, rounds: int) -> None:
        """All rounds; every tool once in each, in turn. The very first run of a tool is not counted."""
        if not any(record.round for record in self._results.records):
            for tool in self._tools:
                self._run(tool, 1)
        for number in range(1, rounds + 1):
            for tool in self._tools:
                self._record(NOOP, tool, number, 1)
            for tool in [floor_of_change(self._job), *(tool for tool in self._tools if tool.changes)]:
                self._record(CHANGE, tool, number, 2)

    def _record(self, kind: str, tool: Tool, number: int, weight: int) -> None:
        found = self._results.of(kind, self._cell, tool.name)
        if any(one.round == number for one in found) or any(one.wall > SLOW for one in found):
            return
        with counting(self._job.fleet.lab) as counts:
            sample = self._run(tool, weight)
        failed = self._problem(kind, tool, sample, weight)
        figures = {"wall": sample.wall, "cpu": sample.cpu, "memory": sample.memory, **asdict(counts)}
        self._results.add(Record(kind, *self._cell, tool.name, number, **figures, failed=failed))
        _say(f"{self._cell} {kind}, round {number}: {tool.name} {sample.wall:.2f} s {failed}")
        self._put_back(needed=bool(failed) or weight != 1)

    def _run(self, tool: Tool, weight: int) -> Sample:
        return measured(tool.words(weight), env=tool.env(weight), cwd=self._job.fleet.folder)

    def _problem(self, kind: str, tool: Tool, sample: Sample, weight: int) -> str:
        """Why a run does not count: the run failed, changed a right state, or left a wrong state."""
        if sample.code:
            return f"exit {sample.code}: {_end(sample)}"
        if kind == NOOP and not tool.quiet.search(sample.out + sample.err):
            return f"the tool reports a change: {_end(sample)}"
        after = measured(self._job.fleet.provision("plan", "--exit-code", inventory=self._job.inventory[weight]))
        return f"the plan differs afterwards: {_end(after)}" if after.code else ""

    def _put_back(self, *, needed: bool) -> None:
        """Restore the first weights by our own deploy, which also mends the damage of a tool."""
        if not needed:
            return
        try:
            expect(measured(self._job.fleet.provision("deploy", "--yes", inventory=self._job.inventory[1])))
        except BenchError as error:  # the next tools' runs will not count, and their records have the reason
            _say(f"the hosts could not be put back: {error}")


def _end(sample: Sample) -> str:
    return " ".join((sample.err.strip() or sample.out.strip())[-400:].split())


def _text(results: Results, about: str, words: str) -> str:
    pinned = ", ".join(word for names in PINNED.values() for word in names)
    shown = [f"Measured {about} Peers: {pinned}. Command: `make bench ARGS='{words}'`."]
    shown += ["", "Median seconds; in brackets times the floor; ¹ one round.", ""]
    shown += [results.targets(), ""]
    for kind in (NOOP, CHANGE):
        shown += [results.seconds(kind), ""]
    for kind in (NOOP, CHANGE):
        for hosts in sorted({hosts for hosts, _ in results.cells}):
            shown += [results.costs(kind, min(cell for cell in results.cells if cell[0] == hosts)), ""]
    failures = results.failures()
    return "\n".join([*shown, *(["Runs that do not count:", "", *failures] if failures else [])])


if __name__ == "__main__":
    main()
