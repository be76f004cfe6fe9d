"""The balancer against the guide's, by one command: boots a lab, measures, writes docs/balancer.md, takes it down.

make bench-balancer                              the tables of the comparison
.venv/bin/python -m tests.bench.balancer settings     the table of the settings
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
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
Found = Mapping[str, Sequence[Answer]]


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def compare(on: Rig, seed: int) -> str:
    """Everything of the comparison, as Markdown."""
    since, conditions = time.time(), _conditions(on, seed)
    say("light load")
    light = measure.light(on, 200)
    say("80 % load")
    load = measure.load(on, say, measure.VARIANTS, seed, 0.8, SECONDS, ROUNDS)
    trouble: dict[str, Found] = {}
    for fault, title in EVENTS.items():
        say(title)
        trouble[title] = {variant: measure.trouble(on, variant, fault, seed) for variant in ("guide", "ours")}
    say("an instance is killed that has let requests wait")
    trouble["an instance is killed after requests waited 30 s for it"] = queued = measure.queued(on)
    say("reloads")
    trouble["25 reloads, clients keep connections"] = reloads = measure.reloads(on)
    made = generations.read(on.lab, since)
    twice = generations.twice(made)
    died = trouble[EVENTS["dies"]]["ours"]
    goals = _goals(load, light, died, queued["ours"], reloads["ours"], (len(made), len(twice)))
    return "\n\n".join(
        [
            conditions,
            f"{ROUNDS} rounds of {SECONDS:g} s at 80 % load, each variant in turn with the same requests:",
            table.load(load),
            "One short request after the other, each variant in turn:",
            table.light(light),
            "Half load for 15 s, trouble after 3 s until the end; and, apart from load, queueing and reloads:",
            table.trouble(trouble),
            table.goals(goals),
        ]
    )


def _goals(
    load: Found,
    light: Found,
    died: Sequence[Answer],
    queued: Sequence[Answer],
    reloads: Sequence[Answer],
    made: tuple[int, int],
) -> list[tuple[str, str, bool]]:
    """Each goal with what was measured and whether it is met."""
    ours, guides = (table.first(load[variant], 0.99) for variant in ("ours", "guide"))
    added = (table.first(light["ours"], 0.5) - table.first(light["direct"], 0.5)) * 1000
    lost, waited, cut = measure.before_first_byte(died), len(measure.failed(queued)), len(measure.failed(reloads))
    return [
        ("TTFT p99 at 80 % load at most half of (a)", f"{ours / guides:.0%} of it", ours <= guides / 2),
        ("TTFT that (b) adds to (c) under 3 ms at p50", f"{added:.2f} ms", added < 3),
        ("no request fails when an instance dies before its first byte", f"{lost} {_of(died)}", not lost),
        ("nor after it waited 30 s", f"{waited} {_of(queued)}", not waited),
        ("none over 25 reloads", f"{cut} of {len(reloads)}", not cut),
        ("no answer is ever generated twice at once", f"{made[1]} of {made[0]}", not made[1]),
    ]


def _of(answers: Sequence[Answer]) -> str:
    """How many requests there were, and how many needed a second instance: then X-Instance names both."""
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
    command = f"`.venv/bin/python -m tests.bench.balancer {what}`" if what else "`make bench-balancer`"
    return " ".join(
        [
            f"{command}, seed {seed}. {page.machine()}",
            "Lab of 2 gpu hosts and a balancer on that machine, the client in the balancer's network;",
            f"{len(on.places)} simulated instances, each {PARALLEL} answers at once of {TOKENS_PER_SECOND} tokens/s;",
            f"Poisson arrivals; log-normal lengths, median {MEDIAN_TOKENS} tokens, sigma {SIGMA:g}, at most {LONGEST}.",
        ]
    )


def main() -> None:
    """Run the bench that is named, and put its tables between its marks."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.balancer", description=__doc__)
    parser.add_argument("what", nargs="?", default="compare", choices=["compare", "settings"])
    parser.add_argument("--seed", type=int, default=20)
    chosen = parser.parse_args()
    with rig(say) as on:
        bench = compare if chosen.what == "compare" else settings
        text = bench(on, chosen.seed)
    page.write(f"bench-balancer-{chosen.what}", text, PAGE)
    print(text)


if __name__ == "__main__":
    main()
