"""Clients that leave, an instance that dies, and a reload."""

import asyncio
from dataclasses import dataclass

from tests.bench.gateway.client import Answer, Ask, Stream, ask_at, keep_asking, many_opened
from tests.bench.gateway.places import CONCURRENCY, FEW, INSTANCES, LITELLM, MODELS, Front
from tests.bench.gateway.rig import Rig
from tests.bench.gateway.streams import ENDLESS, SLOW

ATTEMPTS = 6 * CONCURRENCY[FEW]
"""Requests of a key that fill all its places: LiteLLM counts them in each process apart."""
PATIENCE = 5.0  # seconds in which a proxy may notice that clients have left
DYING, CLIENTS = MODELS[0], 32
_PROMPT = 300  # milliseconds
_SETTLES = 2.0
RUNNING, RATE = 40, 20.0
_STREAM = 60, 100  # tokens, and milliseconds between two: six seconds


@dataclass(frozen=True)
class Left:
    """The places of a key before and after all its clients have left.

    Args:
        first: streams that the proxy admitted at first.
        last: streams that the proxy admitted after the last time.
    """

    first: int
    last: int

    @property
    def lost(self) -> int:
        """Places that stay taken although nobody is there."""
        return max(0, self.first - self.last)


def leaving(rig: Rig, front: Front, cycles: int) -> Left:
    """Fill the places of a key with streams, leave abruptly, wait, and ask again.

    Args:
        rig: the ground.
        front: the proxy.
        cycles: how often the clients leave.
    """
    asks = [rig.ask(front, number, FEW, ENDLESS, SLOW) for number in range(ATTEMPTS)]
    admitted = [asyncio.run(_filled(asks)) for _ in range(cycles + 1)]
    return Left(admitted[0], admitted[-1])


async def _filled(asks: list[Ask]) -> int:
    streams = await many_opened(asks, CONCURRENCY[FEW])
    admitted = sum(not stream.answer.failure for stream in streams)
    for stream in streams:
        stream.leave()
    await asyncio.sleep(PATIENCE)
    return admitted


@dataclass(frozen=True)
class Losses:
    """The requests around an event.

    Args:
        requests: all requests.
        unanswered: requests that failed before their first token.
        cut: streams that broke off after their first token.
        seconds: how long the event took.
    """

    requests: int
    unanswered: int
    cut: int
    seconds: float = 0.0


def losses(answers: list[Answer], seconds: float = 0.0) -> Losses:
    """Return the losses among answers.

    Args:
        answers: the answers.
        seconds: how long the event took.
    """
    failed = [answer for answer in answers if not answer.good]
    unanswered = sum(answer.first is None for answer in failed)
    return Losses(len(answers), unanswered, len(failed) - unanswered, seconds)


def death(rig: Rig, front: Front, seconds: float) -> Losses:
    """Kill an instance under load: half of its requests wait for a first token then.

    Args:
        rig: the ground.
        front: the proxy.
        seconds: length of the load.
    """
    place = INSTANCES[DYING][0]
    rig.knobs(prompt=_PROMPT)

    async def load() -> list[Answer]:
        asking = asyncio.create_task(keep_asking(lambda number: rig.ask(front, number, pace=100), CLIENTS, seconds))
        await asyncio.sleep(_SETTLES)
        rig.kill(place)
        return await asking

    try:
        return losses(asyncio.run(load()))
    finally:
        rig.revive(place)
        rig.knobs()


def reload(rig: Rig, front: Front) -> tuple[Losses, Losses]:
    """Load a configuration anew, and return the losses among running streams and among new requests.

    Args:
        rig: the ground.
        front: the proxy.
    """
    return asyncio.run(_reloaded(rig, front))


async def _reloaded(rig: Rig, front: Front) -> tuple[Losses, Losses]:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    tokens, pace = _STREAM
    streams = await many_opened(
        [rig.ask(front, number, tokens=tokens, pace=pace) for number in range(RUNNING)], RUNNING
    )
    asking = asyncio.create_task(ask_at(lambda number: rig.ask(front, number), RATE, 10_000, done))
    await asyncio.sleep(1)
    begun = loop.time()
    await asyncio.to_thread(rig.reload, front)
    lasted = loop.time() - begun
    await asyncio.gather(*map(_ended, streams))
    await asyncio.sleep(1)
    done.set()
    return losses([stream.answer for stream in streams]), losses(await asking, lasted if front.name == LITELLM else 0.0)


async def _ended(stream: Stream) -> None:
    await stream.ended.wait()
