"""A guard: what the instances of a host need is free or ours. A card or a port that somebody else holds is refused
before anything is changed, and the message says who holds it.

Docker itself lets two containers share a card without a word (FACTS 1.3).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.command import Command
from provision.steps import engine
from provision.steps.base import Check, Fact, RefusalError, State, Step
from provision.steps.container import cards_of
from provision.steps.engine import MANAGED, PROBE, Engine
from provision.steps.facts import HostFacts
from provision.steps.require import cards_live

FORWARDERS = ("docker-proxy", "rootlesskit")
EVERY_ADDRESS = ("0.0.0.0", "[::]", "*")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, kw_only=True)
class Holders(Step):
    """Nobody else holds a card or a port of this host's instances.

    Args:
        cards: instance -> indices of its cards.
        ports: instance -> its port.
        address: the address they listen on, or a pure function of the host facts that gives it.
    """

    cards: Mapping[str, tuple[int, ...]]
    ports: Mapping[str, int]
    address: str | Callable[[HostFacts], str]

    @property
    def id(self) -> str:
        """`guard:instances`."""
        return "guard:instances"

    def fact(self) -> Fact:
        """Reads what Docker has, and who listens."""
        return engine.fact(lambda found: {"foreign": foreign(found), "listening": listening(found)})

    def want(self, facts: HostFacts, have: State) -> State:
        """What was found, or a refusal."""
        address = self.address(facts) if callable(self.address) else self.address
        complaints = [*self._cards(facts, have or {}), *self._ports(address, have or {})]
        if complaints:
            raise RefusalError("; ".join(complaints))
        return have

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return ()

    def check(self, live: Any) -> Iterator[Check]:
        """No foreign container took a card or a port since. That nvidia-smi answers, `require:cards` proves."""
        others = foreign(engine.read_live(live))
        ports = set(self.ports.values())
        held = [f"{one['name']} holds port {port}" for one in others for port in one["ports"] if port in ports]
        yield Check("foreign containers on the ports", held, [])
        _, uuids = cards_live(live)
        wanted = sorted({index for indices in self.cards.values() for index in indices})
        shared = [(one, index) for one in others for index in wanted if _holds(one["cards"], index, uuids)]
        yield Check("foreign containers on the cards", [f"{one['name']} holds card {i}" for one, i in shared], [])

    def _cards(self, facts: HostFacts, have: Mapping[str, Any]) -> Iterator[str]:
        uuids = {str(index): card.uuid for index, card in facts.by_index.items()}
        for instance, indices in self.cards.items():
            for index in indices:
                for holder in have.get("foreign", ()):
                    if _holds(holder["cards"], index, uuids):
                        yield f"card {index} of {instance} is held by the container {holder['name']}, which is not ours"

    def _ports(self, address: str, have: Mapping[str, Any]) -> Iterator[str]:
        places = (address, *EVERY_ADDRESS)
        for instance, port in self.ports.items():
            for holder in have.get("foreign", ()):
                if port in holder["ports"]:
                    yield f"port {port} of {instance} is published by the container {holder['name']}, which is not ours"
            for listener in have.get("listening", ()):
                if listener["port"] == port and listener["address"] in places:
                    yield f"port {port} of {instance} is taken by {listener['program']} on {listener['address']}"


def _holds(held: Sequence[str], index: int, uuids: Mapping[str, str]) -> bool:
    names = {"all", str(index), uuids.get(str(index), "")}
    counts = [int(word.removeprefix("first ")) for word in held if word.startswith("first ")]
    return bool(names & set(held)) or any(index < count for count in counts)


def foreign(found: Engine) -> list[dict[str, Any]]:
    """The running containers that are not ours, with the cards and ports they hold."""
    return [
        {"name": name, "cards": cards_of(item) + _visible(item), "ports": _ports(item)}
        for name, item in sorted(found.containers.items())
        if "1" not in map((item["labels"] or {}).get, (MANAGED, PROBE))
        and item["status"] in ("running", "restarting", "paused")
    ]


def _visible(item: Mapping[str, Any]) -> list[str]:
    """Cards given by a variable: only where the container runs in NVIDIA's runtime, FACTS 2.2."""
    if item["runtime"] != "nvidia":
        return []
    values = [line.partition("=")[2] for line in item["visible"] if line]
    return [word for value in values for word in value.split(",") if word not in ("", "none", "void")]


def _ports(item: Mapping[str, Any]) -> list[int]:
    bindings = [binding for found in (item["ports"] or {}).values() for binding in found or ()]
    return sorted({int(binding["HostPort"]) for binding in bindings if (binding["HostPort"] or "").isdigit()})


def listening(found: Engine) -> list[dict[str, Any]]:
    """The sockets that are not Docker's."""
    return [
        {"address": one.address, "port": one.port, "program": one.program or "a program"}
        for one in found.listening
        if one.program not in FORWARDERS
    ]
