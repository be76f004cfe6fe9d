"""Requests one after the other, for the time to the first token, and side by side, for their number."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from tests.bench.gateway.client import Answer, Caller, keep_asking
from tests.bench.gateway.places import DIRECT, Front
from tests.bench.gateway.rig import Rig
from tests.bench.gateway.usage import usage

_WARM, _WARM_SECONDS = 8, 1.0  # requests that are not counted, and seconds


def firsts(rig: Rig, count: int) -> Mapping[str, list[Answer]]:
    """Return the answers of each way: in every round each way is asked once, and another way begins.

    Args:
        rig: the ground.
        count: number of rounds.
    """
    fronts = list(rig.fronts.values())
    found: dict[str, list[Answer]] = {front.name: [] for front in fronts}
    with closing(Caller()) as caller:
        for number in range(count + _WARM):
            begin = number % len(fronts)
            for front in fronts[begin:] + fronts[:begin]:
                ask = dataclasses.replace(rig.ask(front, number), keeps=True)
                found[front.name].append(caller.ask(ask))
    return {name: answers[_WARM:] for name, answers in found.items()}


@dataclass
class Served:
    """The requests of all rounds.

    Args:
        good: number of whole answers.
        failed: number of other answers.
        seconds: length of all rounds.
        cpu: seconds of CPU of the proxy.
    """

    good: int = 0
    failed: int = 0
    seconds: float = 0.0
    cpu: float = 0.0


def side_by_side(rig: Rig, rounds: int, clients: int, seconds: float) -> Mapping[str, Served]:
    """Return the requests that each way serves in turn.

    Args:
        rig: the ground.
        rounds: number of rounds.
        clients: number of clients, each with a request at a time.
        seconds: length of a round.
    """
    for front in rig.fronts.values():
        _round(rig, front, clients, _WARM_SECONDS, Served())
    found = {name: Served() for name in rig.fronts}
    for number in range(rounds):
        for front in rig.fronts.values():
            rig.say(f"{clients} clients, round {number + 1}: {front.name}")
            _round(rig, front, clients, seconds, found[front.name])
    return found


def _round(rig: Rig, front: Front, clients: int, seconds: float, into: Served) -> None:
    before, begun = _cpu(front), time.monotonic()
    answers = asyncio.run(keep_asking(lambda number: rig.ask(front, number), clients, seconds))
    into.seconds += time.monotonic() - begun
    into.cpu += _cpu(front) - before
    good = sum(answer.good for answer in answers)
    into.good += good
    into.failed += len(answers) - good


def _cpu(front: Front) -> float:
    return 0.0 if front.name == DIRECT else usage(front.pid).cpu
