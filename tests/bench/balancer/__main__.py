"""The balancer against the guide's, by one command: boots a lab, measures, writes docs/balancer.md, removes the lab.

    make bench-balancer                     the comparison
    make bench-balancer ARGS=settings       ours with other settings

Needs root, as every lab does.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import page
from tests.bench.balancer import generations, measure, table
from tests.bench.balancer.client import Answer
from tests.bench.balancer.rig import Rig, rig
from tests.bench.balancer.workload import LONGEST, MEDIAN_TOKENS, PARALLEL, SIGMA, TOKENS_PER_SECOND

PAGE = Path(__file__).parents[3] / "docs" / "balancer.md"
ROUNDS, SECONDS = 2, 40.0
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "queue: 2 (as many as are answered)": {"queue": PARALLEL},
    "queue: 32": {"queue": 16 * PARALLEL},
    "method: random two least_conn": {"method": "random two least_conn"},
    "method: round_robin": {"method": "round_robin"},
    "method: random": {"method": "random"},
}
EVENTS = {
    "dies": "an instance is killed",
    "hang": f"an instance hangs (clients give up after {measure.PATIENCE:g} s)",
    "answer-503": "an instance answers 503",
}
QUEUED = "an instance is killed after requests waited 30 s for it"
RELOADS = "25 reloads, clients keep connections"
Found = Mapping[str, Sequence[Answer]]


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Compared:
    """The measurements: without load, under load, per event; and how many answers were made, and made twice at once."""

    light: Found
    load: Found
    events: Mapping[str, Found]
    made: int
    twice: int


def compared(on: Rig, seed: int) -> Compared:
    """Measure every part of the comparison."""
    since = time.time()
    say("light load")
    light = measure.light(on, 200)
    say("80 % load")
    load = measure.load(on, say, measure.VARIANTS, seed, 0.8, SECONDS, ROUNDS)
    events: dict[str, Found] = {}
    for fault, title in EVENTS.items():
        say(title)
        events[title] = {variant: measure.trouble(on, variant, fault, seed) for variant in ("guide", "ours")}
    say(QUEUED)
    events[QUEUED] = measure.queued(on)
    say(RELOADS)
    events[RELOADS] = measure.reloads(on)
    made = generations.read(on.lab, since)
    return Compared(light, load, events, len(made), len(generations.twice(made)))


def compare(on: Rig, seed: int) -> str:
    """The comparison, as Markdown."""
    conditions, found = _conditions(on, seed), compared(on, seed)
    return "\n\n".join(
        [
            conditions,
            f"{ROUNDS} rounds of {SECONDS:g} s at 80 % load, each variant in turn with the same requests:",
            table.load(found.load),
            "One short request after the other, each variant in turn:",
            table.light(found.light),
            "Half load for 15 s, trouble after 3 s until the end; and, apart from load, queueing and reloads:",
            table.trouble(found.events),
            table.goals(goals(found)),
        ]
    )


def goals(found: Compared) -> list[tuple[str, str, bool]]:
    """Each goal with its measurement and whether the goal is met."""
    ours, guides = (table.first(found.load[variant], 0.99) for variant in ("ours", "guide"))
    added = (table.first(found.light["ours"], 0.5) - table.first(found.light["direct"], 0.5)) * 1000
    died, queued, reloads = (found.events[title]["ours"] for title in (EVENTS["dies"], QUEUED, RELOADS))
    lost, waited, cut = measure.before_first_byte(died), len(measure.failed(queued)), len(measure.failed(reloads))
    return [
        ("TTFT p99 at 80 % load at most half of (a)", f"{ours / guides:.0%} of it", ours <= guides / 2),
        ("TTFT that (b) adds to (c) under 3 ms at p50", f"{added:.2f} ms", added < 3),
        ("no request fails when an instance dies before its first byte", f"{lost} {_of(died)}", not lost),
        ("nor after it waited 30 s", f"{waited} {_of(queued)}", not waited),
        ("none over 25 reloads", f"{cut} of {len(reloads)}", not cut),
        ("no answer is ever generated twice at once", f"{found.twice} of {found.made}", not found.twice),
    ]


def _of(answers: Sequence[Answer]) -> str:
    """The number of requests, and how many needed a second instance: then X-Instance names both."""
    return f"of {len(answers)}; {sum(',' in answer.instance for answer in answers)} were answered by a second instance"


def settings(on: Rig, seed: int) -> str:
    """The balancer with other settings under the same load, as Markdown."""

    def prepare(name: str) -> None:
        say(name)
        on.deploy(**SETTINGS[name])

    conditions = _conditions(on, seed, "settings")
    found = measure.load(on, prepare, SETTINGS, seed, 0.8, SECONDS, ROUNDS)
    text = f"{ROUNDS} rounds of {SECONDS:g} s at 80 % load, each setting in turn with the same requests:"
    return "\n\n".join([conditions, text, table.load(found)])


def _conditions(on: Rig, seed: int, what: str = "") -> str:
    command = f"`make bench-balancer{f' ARGS={what}' if what else ''}`"
    return " ".join(
        [
            f"{command}, seed {seed}. {page.machine()}",
            "Lab of 2 gpu hosts and a balancer on that machine, the client in the balancer's network;",
            f"{len(on.places)} simulated instances, each {PARALLEL} answers at once of {TOKENS_PER_SECOND} tokens/s;",
            f"Poisson arrivals; log-normal lengths, median {MEDIAN_TOKENS} tokens, sigma {SIGMA:g}, at most {LONGEST}.",
        ]
    )


def main() -> None:
    """Run a bench by its name, and put its tables between its marks."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.balancer", description=__doc__)
    parser.add_argument("what", nargs="?", default="compare", choices=["compare", "settings"])
    parser.add_argument("--seed", type=int, default=20)
    options = parser.parse_args()
    with rig(say) as on:
        bench = compare if options.what == "compare" else settings
        text = bench(on, options.seed)
    page.write(f"bench-balancer-{options.what}", text, PAGE)
    print(text)


if __name__ == "__main__":
    main()
