"""Instances replaced under load, by one command: boots a lab, rolls, kills, writes docs/reliability.md, ends the lab.

    make bench-roll

Needs root, as every lab does.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from provision.lab.lab import Lab
from provision.lab.spec import Spec
from tests.bench import fleet, page
from tests.bench.balancer.client import Answer
from tests.bench.measure import expect, measured
from tests.bench.roll.load import Load

PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
NAME = "bench-roll"
INSTANCES, PARALLEL, RATE, TOKENS, LOADING = 3, 2, 25, 100, 2.0
CLIENTS = (INSTANCES - 1) * PARALLEL  # the load that the remaining instances carry while one is out
OTHER_IMAGE = "ollama/ollama:0.33.0"
BEFORE, AFTER = 5.0, 5.0  # seconds of load around an event
RECOVERY = 45.0  # seconds after a kill
KILL = """
pid=$(docker inspect --type container --format '{{.State.Pid}}' ollama1)
kill -9 "$pid"
"""


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Phase:
    """An event, as clients saw it.

    Args:
        title: the event.
        seconds: duration of the event.
        answers: answers to every request, from before the event until after it.
        excused: the answers that nothing could have saved.
    """

    title: str
    seconds: float
    answers: list[Answer]
    excused: list[Answer] = field(default_factory=list)

    @property
    def cells(self) -> tuple[str, ...]:
        """A row of the table."""
        cut = sum(answer.failure == "cut" for answer in self.answers)
        failed = sum(not answer.good for answer in self.answers) - cut
        slowest = max((answer.first or answer.total for answer in self.answers), default=0.0)
        counts = (len(self.answers), failed, cut)
        return (self.title, f"{self.seconds:.0f} s", *map(str, counts), f"{slowest:.1f} s")

    @property
    def wrong(self) -> str:
        """The failures: requests that failed, streams that were cut, or no answer at all."""
        bad = [answer for answer in self.answers if not answer.good and answer not in self.excused]
        if bad:
            return f"{self.title}: " + ", ".join(f"{each.failure} of {each.instance or 'nobody'}" for each in bad)
        return "" if any(answer.good for answer in self.answers) else f"{self.title}: nothing was answered"


class Bench:
    """The lab, its inventory, and the load.

    Args:
        lab: three gpu hosts with a card each, and a balancer.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.data: dict[str, Any] = yaml.safe_load(lab.inventory.read_text())
        self.data["all"]["vars"]["ollama"]["num_parallel"] = PARALLEL
        self.path = lab.home / "roll.yaml"

    def provision(self, *words: str) -> dict[str, Any]:
        """Run a command of ours, which must succeed; return its document."""
        self.path.write_text(yaml.safe_dump(self.data, sort_keys=False))
        argv = [sys.executable, "-m", "provision", *words, "--json", "-i", str(self.path)]
        sample = expect(measured(argv))
        return dict(json.loads(sample.out))

    def prepared(self) -> None:
        """Deploy, with answers of a few seconds."""
        self.provision("deploy", "--yes")
        knobs = {"tokens_per_second": RATE, "answer_tokens": 100000, "load_seconds": LOADING, "shared_speed": 0}
        for host in self.lab.hosts():
            if host.name.startswith("gpu"):
                host.write("/etc/provision-lab/knobs.json", json.dumps(knobs))

    def during(self, title: str, happens: Callable[[], None], after: float = AFTER) -> tuple[Phase, float]:
        """Load from before an event until after it; also when the event began, in seconds after the load began."""
        say(title)
        balancer = next(host for host in self.lab.hosts() if host.name.startswith("lb"))
        with Load(balancer.address, CLIENTS, TOKENS, title) as load:
            time.sleep(BEFORE)
            begun = load.since()
            happens()
            seconds = load.since() - begun
            time.sleep(after)
        return Phase(title, seconds, load.end()), begun

    def roll(self) -> list[Phase]:
        """Roll to another image, change the balancer's configuration, and roll back."""
        settings = self.data["all"]["vars"]
        old, runs = copy.deepcopy(settings), []

        def image() -> None:
            settings["ollama"]["image"] = OTHER_IMAGE
            runs.append(self.provision("deploy", "--yes")["run"])

        def balancer() -> None:
            settings["balancer"] = {"retry_after": 7}
            self.provision("deploy", "--yes")

        def back() -> None:
            self.provision("rollback", runs[0], "--yes")

        found = [
            self.during(f"every instance rolled to {OTHER_IMAGE}", image)[0],
            self.during("a change of the balancer's configuration", balancer)[0],
            self.during("that roll rolled back", back)[0],
        ]
        settings.clear()
        settings.update(old)
        self.provision("deploy", "--yes")
        return found

    def kill(self) -> tuple[Phase, str]:
        """Kill one instance; return a sentence about the failures and about the time until the instance served
        again."""
        victim = "gpu-01/ollama1"

        def happens() -> None:
            self.lab.host("gpu-01").run(["sh", "-c", KILL])

        phase, at = self.during("one instance killed (`kill -9`)", happens, RECOVERY)
        bad = [answer for answer in phase.answers if not answer.good]
        serving = served_then(phase.answers, victim, at)
        later = [each.at for each in phase.answers if each.good and each.at > at and each.instance == victim]
        recovery = f"{min(later) - at:.0f} s" if later else f"more than {RECOVERY:.0f} s"
        counts = f"{len(serving)} of its streams, {len(bad) - len(serving)} of other instances"
        sentence = (
            f"The kill of `{victim}` failed {counts}, and {sum(each.at >= at for each in bad)} later requests. The "
            f"instance answered again {recovery} after the kill: Docker had restarted the container, and the first "
            f"request loads the model ({LOADING:g} s here)."
        )
        return replace(phase, excused=serving), sentence


def served_then(answers: Sequence[Answer], victim: str, at: float) -> list[Answer]:
    """The answers that an instance was giving when it was killed: begun streams, and requests in its queue.

    Args:
        answers: answers to every request.
        victim: label of the instance.
        at: when the instance was killed, by the clock of `Answer.at`.
    """
    return [each for each in answers if not each.good and each.instance == victim and each.at < at]


def main() -> None:
    """Measure, and write the page; exit 1 where a client noticed a failure."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    conditions = page.machine()
    with fleet.taken_down(NAME):
        bench = Bench(Lab.up(Spec(NAME, INSTANCES, 1, 1), install=True, say=say))
        bench.prepared()
        phases = bench.roll()
        killed, said = bench.kill()
    head = ("what happened", "took", "requests", "failed", "streams cut", "longest wait for a first token")
    rows = [phase.cells for phase in (*phases, killed)]
    text = "\n\n".join((_conditions(conditions), page.table(head, rows), said))
    page.write("roll", text, PAGE)
    print(text)
    sys.exit("\n".join(filter(None, (phase.wrong for phase in (*phases, killed)))) or 0)


def _conditions(machine: str) -> str:
    return (
        f"{INSTANCES} instances on hosts of their own, a balancer, `max_unavailable: 1`. {CLIENTS} clients, the places "
        f"of the remaining instances; a client sends the next request at the end of the answer, and every second "
        f"client keeps its connection. Answers of {TOKENS} tokens at {RATE} a second: {TOKENS / RATE:g} s. Simulated "
        f"GPUs and servers, real nginx, Docker and SSH. `make bench-roll`, {machine}"
    )


if __name__ == "__main__":
    main()
