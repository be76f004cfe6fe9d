"""The parts of a run's time: programs that each do a little more than the program before, up to a whole deploy."""

import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.bench import page
from tests.bench.measure import expect, measured
from tests.bench.peers.job import Job

ROUNDS = 7


def ladder(job: Job) -> str:
    """The table.

    Args:
        job: the hosts.
    """
    steps = _steps(job)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, words in steps.items():
            sample = expect(measured(words))
            samples[name].append((sample.wall, sample.cpu))
    rows = [[name, *_medians(found)] for name, found in samples.items()]
    return page.table([f"{job.size} host{'s' * (job.size != 1)}", "seconds", "CPU, s"], rows)


def _medians(found: list[tuple[float, float]]) -> list[str]:
    return [f"{statistics.median(values):.3f}" for values in zip(*found, strict=True)]


def _steps(job: Job) -> Mapping[str, list[str]]:
    read = json.loads(job.path("floor-read").read_text())
    hosts = [{**host, "command": "true", "stdin": ""} for host in read["hosts"]]
    job.path("floor-true").write_text(json.dumps({**read, "hosts": hosts}))
    python, floor = [sys.executable, "-c"], [sys.executable, str(Path(__file__).with_name("floor.py"))]
    inventory = job.inventory[1]
    return {
        "python that does nothing": [*python, "pass"],
        "it imports paramiko": [*python, "import paramiko"],
        "floor, the command is `true`": [*floor, str(job.path("floor-true"))],
        "floor": [*floor, str(job.path("floor-read"))],
        "`provision --help`": [sys.executable, "-m", "provision", "--help"],
        "`provision inventory check`": job.fleet.provision("inventory", "check", inventory=inventory),
        "`provision deploy` that changes nothing": job.fleet.provision("deploy", "--yes", inventory=inventory),
    }
