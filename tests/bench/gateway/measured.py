"""All measurements of the bench, in their order."""

from collections.abc import Mapping
from dataclasses import dataclass

from tests.bench.gateway import bodies, first_tokens, flood, streams, trouble
from tests.bench.gateway.client import Answer
from tests.bench.gateway.first_tokens import Served
from tests.bench.gateway.flood import Shared
from tests.bench.gateway.places import LITELLM, OURS, PLAIN, UNCOUNTED
from tests.bench.gateway.rig import Rig
from tests.bench.gateway.sizes import Sizes
from tests.bench.gateway.streams import Held
from tests.bench.gateway.trouble import Left, Losses


@dataclass(frozen=True)
class Figures:
    """All figures, each by the name of the way to the instances.

    Args:
        firsts: answers one after the other.
        served: answers side by side.
        held: with the open streams that every way gets.
        many: with the open streams that nginx alone gets.
        priced: with fast streams.
        stalls: pauses of a stream while a body is judged.
        left: places of a key.
        shared: answers beside a flood.
        died: losses when an instance dies.
        reloaded: losses of a reload, among running streams and among new requests.
    """

    firsts: Mapping[str, list[Answer]]
    served: Mapping[str, Served]
    held: Mapping[str, Held]
    many: Mapping[str, Held]
    priced: Mapping[str, Held]
    stalls: bodies.Stalls
    left: Mapping[str, Left]
    shared: Mapping[str, Shared]
    died: Mapping[str, Losses]
    reloaded: Mapping[str, tuple[Losses, Losses]]


def everything(rig: Rig, sizes: Sizes) -> Figures:
    """Measure everything. The parts that hurt a proxy come last.

    Args:
        rig: the ground.
        sizes: the size of each part.
    """
    rig.say("one request after the other")
    firsts = first_tokens.firsts(rig, sizes.firsts)
    served = first_tokens.side_by_side(rig, sizes.rounds, sizes.clients, sizes.seconds)
    held = streams.holding(rig, rig.some(PLAIN, OURS, UNCOUNTED, LITELLM), sizes.streams, sizes.hold)
    priced = streams.priced(rig, sizes.fast, sizes.hold)
    many = streams.holding(rig, rig.some(PLAIN, OURS, UNCOUNTED), sizes.many, sizes.hold)
    stalls = bodies.stalls(rig, sizes.repeats)
    left, shared, died, reloaded = {}, {}, {}, {}
    for front in rig.some(OURS, LITELLM):
        rig.say(f"clients leave: {front.name}")
        left[front.name] = trouble.leaving(rig, front, sizes.cycles)
    for front in rig.some(PLAIN, OURS, LITELLM):
        rig.say(f"a flood: {front.name}")
        shared[front.name] = flood.sharing(rig, front, sizes.flood, sizes.flood_rounds)
    for front in rig.some(PLAIN, OURS, LITELLM):
        rig.say(f"an instance dies: {front.name}")
        died[front.name] = trouble.death(rig, front, sizes.trouble)
    for front in rig.some(PLAIN, OURS, LITELLM):
        rig.say(f"a reload: {front.name}")
        reloaded[front.name] = trouble.reload(rig, front)
    return Figures(firsts, served, held, many, priced, stalls, left, shared, died, reloaded)
