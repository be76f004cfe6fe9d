"""Measure the controller alone with up to 200 hosts, and write the figures to docs/performance.md."""

import argparse
import itertools
import json
import signal
import statistics
import sys
from collections.abc import Sequence

from tests.bench import page
from tests.bench.fleet import Fleet, booted, taken_down
from tests.bench.many.hosts import NAME, Crowd
from tests.bench.measure import Sample, expect, measured

_HEAD = (
    "hosts",
    "wall, s",
    "CPU, s",
    "CPU per host, ms",
    "peak memory, MiB",
    "threads",
    "files",
    "slowest host, s",
    "median host, s",
)


def main() -> None:
    """Boot the host that plays many, measure, write the page, remove the host."""
    options = _options()
    # A shell ignores SIGINT for its background jobs, and so would the runs that the bench interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    page_lines = [f"Measured {page.machine()} Command: `make bench-many`."]
    with taken_down("bench-many"):
        fleet = Fleet(booted("bench-many", 1, _say), [NAME])
        fleet.deployed()
        fleet.prepared()
        crowd = Crowd(fleet, *fleet.recorded().values())
        measured(crowd.provision(1, "deploy", "--yes"))  # fills caches
        samples = {count: _noop(crowd, count, options.rounds) for count in options.hosts}
        most = max(options.hosts)
        page_lines += ["", _table(samples), "", *_marginal(samples), *_interrupts(crowd, most, samples[most][0].wall)]
    page.write("bench-many", "\n".join(page_lines))
    _say("\n".join(page_lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=_numbers, default=[1, 10, 25, 50, 100, 200], help="how many hosts: 10,25,...")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _noop(crowd: Crowd, count: int, rounds: int) -> list[Sample]:
    words = crowd.provision(count, "deploy", "--yes", "--json")
    samples = [expect(measured(words, watch=True)) for _ in range(rounds)]
    summary = json.loads(samples[-1].out)["summary"]
    if summary["ok"] != count:
        raise SystemExit(f"{count} hosts were not all found converged: {summary}")
    _say(f"{count} hosts: {_median(samples, 'wall'):.2f} s, CPU {_median(samples, 'cpu'):.2f} s")
    return samples


def _median(samples: Sequence[Sample], name: str) -> float:
    return float(statistics.median(getattr(sample, name) for sample in samples))


def _table(samples: dict[int, list[Sample]]) -> str:
    return page.table(_HEAD, [_row(count, runs) for count, runs in samples.items()])


def _row(count: int, runs: list[Sample]) -> list[str]:
    seconds = sorted(host["seconds"] for run in runs for host in json.loads(run.out)["hosts"])
    cpu = _median(runs, "cpu")
    return [
        str(count),
        f"{_median(runs, 'wall'):.2f}",
        f"{cpu:.2f}",
        f"{cpu / count * 1000:.0f}",
        f"{max(run.memory for run in runs):.0f}",
        str(max(run.peak.threads for run in runs)),
        str(max(run.peak.files for run in runs)),
        f"{seconds[-1]:.2f}",
        f"{statistics.median(seconds):.2f}",
    ]


def _marginal(samples: dict[int, list[Sample]]) -> list[str]:
    """The cost of one more host between one size and the next: a flat cost means that nothing grows with the fleet."""
    sizes = sorted(samples)
    costs = [
        f"{(_median(samples[b], 'cpu') - _median(samples[a], 'cpu')) / (b - a) * 1000:.0f} ({a} to {b})"
        for a, b in itertools.pairwise(sizes)
    ]
    return ["CPU of one more host, ms: " + ", ".join(costs) + "." if costs else "", ""]


def _interrupts(crowd: Crowd, count: int, whole: float) -> list[str]:
    """How long a run goes on after one Ctrl-C: while hosts answer, and while no host answers."""
    words = crowd.provision(count, "deploy", "--yes", "--json")
    after = max(whole / 2, 0.5)
    lines = [_interrupt("half-way through the run", words, after)]
    crowd.hang(on=True)
    try:
        lines.append(_interrupt("while the hosts hang", words, after))
    finally:
        crowd.hang(on=False)
    return [f"One Ctrl-C, {count} hosts: " + "; ".join(lines) + "."]


def _interrupt(when: str, words: list[str], after: float) -> str:
    sample = measured(words, interrupt=after, timeout=after + 60)
    _say(f"Ctrl-C {when}: exit {sample.code} after {sample.wall - after:.2f} s")
    ended = f"exit code {sample.code}" if sample.code != -9 else "did not end within a minute"
    return f"{when}, {ended} {sample.wall - after:.2f} s later"


if __name__ == "__main__":
    main()
