"""Open streams: the memory and the CPU of a proxy, and the price of a token."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.bench.gateway.client import Stream, many_opened
from tests.bench.gateway.places import LITELLM, OURS, PLAIN, UNCOUNTED, Front
from tests.bench.gateway.rig import Rig
from tests.bench.gateway.usage import usage

SLOW, FAST = 1000, 10  # milliseconds between two tokens
ENDLESS = 100_000  # tokens
AT_ONCE = 64
_SETTLES = 2.0  # seconds between the last first token and the measurement, and after a part


@dataclass(frozen=True)
class Held:
    """A proxy with open streams.

    Args:
        asked: requests.
        held: streams that were open from the beginning of the measurement to its end.
        before: bytes of memory without streams.
        memory: bytes at the end of the measurement.
        growth: bytes that the memory grew during the measurement.
        cpu: seconds of CPU in a second.
        tokens: tokens that came during the measurement.
        each: tokens of a stream at its end, on average.
        seconds: length of the measurement.
    """

    asked: int
    held: int
    before: int
    memory: int
    growth: int
    cpu: float
    tokens: int
    each: float
    seconds: float

    @property
    def cpu_of_token(self) -> float:
        """Seconds of CPU for a token."""
        return self.cpu * self.seconds / max(self.tokens, 1)


def holding(rig: Rig, fronts: Iterable[Front], count: int, seconds: float, pace: int = SLOW) -> Mapping[str, Held]:
    """Return name -> figures of ways with open streams, in turn.

    nginx begins with new worker processes, because memory that a worker freed before hides what its streams take.

    Args:
        rig: the ground.
        fronts: the ways.
        count: number of streams.
        seconds: length of the measurement.
        pace: milliseconds between two tokens.
    """
    found = {}
    for front in fronts:
        if front.name != LITELLM:
            rig.reload(front)
            time.sleep(_SETTLES)
        rig.say(f"{count} open streams, {1000 / pace:g} tokens/s each: {front.name}")
        found[front.name] = asyncio.run(_held(rig, front, count, seconds, pace))
    return found


async def _held(rig: Rig, front: Front, count: int, seconds: float, pace: int) -> Held:
    idle = usage(front.pid)
    asks = [rig.ask(front, number, tokens=ENDLESS, pace=pace) for number in range(count)]
    streams = await many_opened(asks, AT_ONCE)
    await asyncio.sleep(_SETTLES)
    tokens, before, begun = _tokens(streams), usage(front.pid), asyncio.get_running_loop().time()
    await asyncio.sleep(seconds)
    lasted, after, came = asyncio.get_running_loop().time() - begun, usage(front.pid), _tokens(streams) - tokens
    held = [stream for stream in streams if not stream.ended.is_set()]
    for stream in streams:
        stream.leave()
    await asyncio.sleep(_SETTLES)
    return Held(
        asked=count,
        held=len(held),
        before=idle.memory,
        memory=after.memory,
        growth=after.memory - before.memory,
        cpu=(after.cpu - before.cpu) / lasted,
        tokens=came,
        each=_tokens(held) / max(len(held), 1),
        seconds=lasted,
    )


def _tokens(streams: Iterable[Stream]) -> int:
    return sum(stream.answer.tokens for stream in streams)


def priced(rig: Rig, count: int, seconds: float) -> Mapping[str, Held]:
    """Return name -> figures of nginx with a few fast streams, for the price of a token.

    Args:
        rig: the ground.
        count: number of streams.
        seconds: length of the measurement.
    """
    return holding(rig, rig.some(PLAIN, OURS, UNCOUNTED), count, seconds, FAST)
