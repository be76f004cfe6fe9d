"""The measurements, each on its own; the parts of one table are interleaved, so that all see the same machine."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from tests.bench.balancer.client import Answer, Ask
from tests.bench.balancer.rig import Rig
from tests.bench.balancer.workload import asks, requests

VARIANTS = ("guide", "ours", "direct")
FAULTS = ("dies", "hang", "answer-503")
PATIENCE = 10.0
_FAULT_AFTER = 3.0
_SETTLE = 1.0


def load(
    rig: Rig,
    prepare: Callable[[str], object],
    variants: Iterable[str],
    seed: int,
    share: float,
    seconds: float,
    rounds: int,
) -> dict[str, list[Answer]]:
    """The same requests to each variant, in turn, in several rounds.

    Args:
        rig: the lab.
        prepare: called with the variant before each of its runs.
        variants: names; every unknown name is a variant of ours.
        seed: seed of the first round; each round has its own.
        share: the load, as a share of the instances' capacity.
        seconds: how long requests come in each round.
        rounds: number of rounds.
    """
    variants = list(variants)
    found: dict[str, list[Answer]] = {variant: [] for variant in variants}
    for number in range(rounds):
        drawn = requests(seed + number, share, seconds, rig.slots)
        for variant in variants:
            prepare(variant)
            time.sleep(_SETTLE)
            name = f"load {number} {variant}"
            found[variant] += rig.play(asks(drawn, rig.targets(variant), name), patience=120)
    return found


def light(rig: Rig, count: int) -> dict[str, list[Answer]]:
    """One short request after the other, guide, ours, direct, guide and so on: no queue hides a proxy's addition."""
    targets = {variant: rig.targets(variant) for variant in VARIANTS}
    order = [
        Ask(f"light {number} {variant}", 1, *targets[variant][number % len(targets[variant])])
        for number in range(count)
        for variant in VARIANTS
    ]
    answers = rig.play(order, how="in turn")
    return {variant: answers[index :: len(VARIANTS)] for index, variant in enumerate(VARIANTS)}


def trouble(rig: Rig, variant: str, fault: str, seed: int, seconds: float = 15.0) -> list[Answer]:
    """Half load, and after three seconds the first instance has a fault until the end."""
    drawn = requests(seed, 0.5, seconds, rig.slots)
    sent = asks(drawn, rig.targets(variant), f"{fault} {variant}")
    with ExitStack() as stack:
        finish = stack.enter_context(rig.playing(sent, patience=PATIENCE))
        time.sleep(_FAULT_AFTER)
        stack.enter_context(rig.fault(rig.places[0], fault))
        return finish()


def queued(rig: Rig, seconds: float = 30.0) -> dict[str, list[Answer]]:
    """Requests that wait while long answers hold every slot; after `seconds` seconds one instance dies."""
    busy = [
        Ask(f"busy {place.name} {number}", int((seconds + 4) * 100), place.address, place.port)
        for place in rig.places
        for number in range(rig.slots // len(rig.places))
    ]
    sent = busy + [
        Ask(f"queued {number} {variant}", 5, *rig.targets(variant)[0], at=1.0)
        for number in range(24)
        for variant in ("guide", "ours")
    ]
    with ExitStack() as stack:
        finish = stack.enter_context(rig.playing(sent, patience=120))
        time.sleep(seconds + 1.5)
        stack.enter_context(rig.fault(rig.places[0], "dies"))
        answers = finish()[len(busy) :]
    return {"guide": answers[0::2], "ours": answers[1::2]}


def reloads(rig: Rig, count: int = 25, pause: float = 0.4) -> dict[str, list[Answer]]:
    """Clients with lasting connections, while both proxies are reloaded again and again."""
    found: dict[str, list[Answer]] = {}
    with ExitStack() as stack:
        finishes = {
            variant: stack.enter_context(
                rig.playing([Ask(f"reload {variant}", 3, *rig.targets(variant)[0])], how="keep asking", clients=8)
            )
            for variant in ("guide", "ours")
        }
        time.sleep(_SETTLE)
        for _ in range(count):
            for variant in finishes:
                rig.reload(variant)
            time.sleep(pause)
        for variant, finish in finishes.items():
            found[variant] = finish()
    return found


def failed(answers: Iterable[Answer]) -> list[Answer]:
    """The answers that were not completed."""
    return [answer for answer in answers if not answer.good]


def failures(answers: Iterable[Answer]) -> Counter[str]:
    """Number of failed requests, by kind."""
    return Counter(answer.failure for answer in failed(answers))


def before_first_byte(answers: Iterable[Answer]) -> int:
    """Number of requests that failed before their first byte: another instance could have answered them."""
    return sum(answer.first is None for answer in failed(answers))
