"""A week of faults in an hour, by one command; writes docs/reliability.md, ends the lab.

    make bench-week                      # an hour
    make bench-week ARGS="--minutes 15"  # every class at least once
    make bench-week ARGS="--page FILE"   # the page anew, from the requests of an earlier run

Boots a lab of two balancers and two gpu hosts, whose cards and model servers are SIMULATED; the clients are real. Needs
root, as every lab does.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import yaml

from tests.bench import page
from tests.bench.week import text
from tests.bench.week.acts import ACTS, Fleet
from tests.bench.week.arithmetic import Fault, Request
from tests.bench.week.clients import Clients
from tests.fleet import wait_for
from tests.real.install import packages
from tests.real.install.workshop import Workshop, default_folder

NAME = "bench-week"
PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
ASSUMPTIONS = Path(__file__).parent / "assumptions.yaml"
PER_SECOND = 1.0  # requests in a second of each kind of client
QUIET = 15.0  # seconds after an act, in which every client is served again
SPEED = {"tokens_per_second": 20, "answer_tokens": 30, "shared_speed": 0}


def say(words: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def schedule(seconds: float) -> Iterator[str]:
    """Yield the classes of the acts: each at least once, and again in the same order while there is time.

    Args:
        seconds: of the run.
    """
    deadline = time.monotonic() + seconds
    for number, key in enumerate(cycle(ACTS)):
        if number >= len(ACTS) and time.monotonic() >= deadline and key not in ("host-back", "balancer-back"):
            return
        yield key


def week(fleet: Fleet, clients: Clients, seconds: float) -> list[Fault]:
    """Make the faults and the changes, one after the other.

    Args:
        fleet: the fleet.
        clients: at work.
        seconds: of the run.
    """
    wait_for(lambda: clients.served(0, 5), 120)
    made = []
    for key in schedule(seconds):
        say(key)
        made.append(Fault(key, time.monotonic()))
        ACTS[key](fleet)
        quiet = time.monotonic()
        time.sleep(QUIET)
        wait_for(lambda since=quiet: clients.served(since, 3), 120)
    return made


def measured(minutes: float) -> dict[str, Any]:
    """Run the week, and return all requests and faults.

    Args:
        minutes: of the run.
    """
    about = page.machine()
    python = packages.environment(Workshop(default_folder()), ["clients"]) / "python"
    with tempfile.TemporaryDirectory(prefix="bench-week-") as folder:
        fleet = Fleet.made(NAME, Path(folder))
        try:
            for host in fleet.hosts("gpu"):
                fleet.lab.host(host).write("/etc/provision-lab/knobs.json", json.dumps(SPEED))
            clients = Clients(python, fleet.url, fleet.model, Path(folder) / "ca" / "ca.pem", PER_SECOND)
            begun = time.monotonic()
            try:
                faults = week(fleet, clients, minutes * 60)
            finally:
                clients.end()
            ended = time.monotonic()
        finally:
            fleet.lab.down()
    return {
        "about": about,
        "minutes": round((ended - begun) / 60, 1),
        "faults": [asdict(fault) for fault in faults],
        "requests": [asdict(request) for request in clients.requests],
    }


def main() -> None:
    """Measure, print, and put the tables between their marks."""
    parser = argparse.ArgumentParser(prog="make bench-week")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--keep", type=Path, help="file for all requests and faults")
    parser.add_argument("--page", type=Path, help="file of an earlier run")
    words = parser.parse_args()
    run = json.loads(words.page.read_text()) if words.page else measured(words.minutes)
    if words.keep:
        words.keep.write_text(json.dumps(run))
    assumed = yaml.safe_load(ASSUMPTIONS.read_text())
    faults = [Fault(**fault) for fault in run["faults"]]
    requests = [Request(**request) for request in run["requests"]]
    written = text.page(run["about"], run["minutes"], requests, faults, assumed)
    page.write("week", written, PAGE)
    print(written)


if __name__ == "__main__":
    main()
