"""How much the bench measures."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The size of each part.

    Args:
        firsts: requests for each way, one after the other.
        rounds: rounds of requests side by side.
        seconds: length of such a round.
        clients: clients of such a round.
        streams: open streams, for every way.
        many: open streams, for nginx alone.
        hold: seconds in which open streams are measured.
        fast: open streams of a hundred tokens a second, for the price of a token.
        cycles: how often all clients of a key leave.
        flood: seconds of a flood, and of quiet before.
        flood_rounds: rounds of quiet and flood.
        trouble: seconds of load around the death of an instance.
        repeats: how often a large body is sent.
    """

    firsts: int = 500
    rounds: int = 3
    seconds: float = 3.0
    clients: int = 32
    streams: int = 1000
    many: int = 5000
    hold: float = 6.0
    fast: int = 40
    cycles: int = 2
    flood: float = 5.0
    flood_rounds: int = 2
    trouble: float = 6.0
    repeats: int = 3


FULL = Sizes()
SMALL = Sizes(
    firsts=10,
    rounds=1,
    seconds=0.5,
    clients=4,
    streams=40,
    many=50,
    hold=1.5,
    fast=4,
    cycles=1,
    flood=1.5,
    flood_rounds=1,
    trouble=3.0,
    repeats=1,
)
"""For a look at the bench itself; the figures mean nothing."""
