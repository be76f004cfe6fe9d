"""A guard: what the instances of a host need is free or ours. A card or a port that somebody else holds is refused
before anything is changed, and the message says who holds it.

Docker itself lets two containers share a card without a word (docs/facts.md#docker-accepts). A container that was given
this very card holds the card. A container that was given all cards may only watch, as exporters of metrics do, and
holds the cards on which nvidia-smi lists a process of the container. A process outside Docker holds a card where
nvidia-smi lists it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.command import Command
from provision.steps.base import Check, Fact, RefusalError, State, Step
from provision.steps.docker import inspect
from provision.steps.docker.inspect import MANAGED, PROBE, Docker
from provision.steps.facts import HostFacts, live_facts
from provision.steps.instance.container_state import cards_of
from provision.steps.nvidia_smi import Card

FORWARDERS = ("docker-proxy", "rootlesskit")
EVERY_ADDRESS = ("0.0.0.0", "[::]", "*")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, kw_only=True)
class Holders(Step):
    """Nobody else holds a card or a port of this host's instances.

    Args:
        cards: instance -> indices of its cards.
        ports: instance -> its port.
        address: the address they listen on, or a pure function of the host facts that gives it.
        tolerate: names of containers, and of programs outside Docker, that may use the cards of instances.
        setting: how the inventory calls `tolerate`.
    """

    cards: Mapping[str, tuple[int, ...]]
    ports: Mapping[str, int]
    address: str | Callable[[HostFacts], str]
    tolerate: tuple[str, ...] = ()
    setting: str = "tolerate"

    @property
    def id(self) -> str:
        """`guard:instances`."""
        return "guard:instances"

    def fact(self) -> Fact:
        """Reads the containers of Docker, the processes on the cards, and the listening sockets."""
        return inspect.fact(_found)

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
        """Nobody else took a card or a port since. That nvidia-smi answers, `require:cards` proves."""
        have = _found(inspect.read_live(live))
        ports = set(self.ports.values())
        held = [f"{one['name']} holds port {port}" for one in have["foreign"] for port in one["ports"] if port in ports]
        yield Check("foreign containers on the ports", held, [])
        yield Check("others on the cards", list(self._cards(live_facts(live), have)), [])

    def _cards(self, facts: HostFacts, have: Mapping[str, Any]) -> Iterator[str]:
        yield from self._held(facts.by_index, have)

    def _held(self, listed: Mapping[int, Card], have: Mapping[str, Any]) -> Iterator[str]:
        """A sentence for each card and whoever else holds it."""
        for instance, indices in self.cards.items():
            for index in filter(listed.__contains__, indices):
                holders = dict(_holders(listed[index], have))
                for name, said in holders.items():
                    if name not in self.tolerate:
                        yield f"card {index} of {instance} is {said}; stop {name}, or list the name in {self.setting}"

    def _ports(self, address: str, have: Mapping[str, Any]) -> Iterator[str]:
        places = (address, *EVERY_ADDRESS)
        for instance, port in self.ports.items():
            for holder in have.get("foreign", ()):
                if port in holder["ports"]:
                    yield f"port {port} of {instance} is published by the container {holder['name']}, which is not ours"
            for listener in have.get("listening", ()):
                if listener["port"] == port and listener["address"] in places:
                    yield f"port {port} of {instance} is taken by {listener['program']} on {listener['address']}"


def _holders(card: Card, have: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Who else holds a card: the name to tolerate it by, and how it holds the card. The last word on a name counts."""
    applications = have.get("applications")
    for one in have.get("foreign", ()):
        if _is_given(one["cards"], card):
            yield one["name"], f"held by the container {one['name']}, which is not ours"
        elif "all" in one["cards"] and applications is None:
            said = "which is not ours, was given all cards, and may use it: nvidia-smi does not list who does"
            yield one["name"], f"held by the container {one['name']}, {said}"
    for one in applications or ():
        if one["card"] == card.uuid:
            program = f"{one['program']} (pid {one['pid']})"
            if one["container"]:
                yield one["container"], f"used by {program} of the container {one['container']}, which is not ours"
            else:
                yield one["program"], f"used by {program}, which runs outside Docker"


def _is_given(cards: Sequence[str], card: Card) -> bool:
    """Whether a container was given this very card: Docker counts the cards as nvidia-smi does."""
    counts = [int(word.removeprefix("first ")) for word in cards if word.startswith("first ")]
    return str(card.index) in cards or card.uuid in cards or any(card.index < count for count in counts)


def _found(found: Docker) -> dict[str, Any]:
    return {"foreign": foreign(found), "listening": listening(found), "applications": applications(found)}


def _is_foreign(item: Mapping[str, Any]) -> bool:
    return "1" not in map((item["labels"] or {}).get, (MANAGED, PROBE))


def applications(found: Docker) -> list[dict[str, Any]] | None:
    """The processes on the cards that are in no container of ours; None where nvidia-smi did not say."""
    if found.applications is None:
        return None
    return [
        dataclasses.asdict(one)
        for one in found.applications
        if not one.container or _is_foreign(found.containers[one.container])
    ]


def foreign(found: Docker) -> list[dict[str, Any]]:
    """The running containers that are not ours, with the cards and ports they hold."""
    return [
        {"name": name, "cards": cards_of(item) + _visible(item), "ports": _ports(item)}
        for name, item in sorted(found.containers.items())
        if _is_foreign(item) and item["status"] in ("running", "restarting", "paused")
    ]


def _visible(item: Mapping[str, Any]) -> list[str]:
    """Cards given by a variable: only where the container runs in NVIDIA's runtime (docs/facts.md#the-gpus-option)."""
    if item["runtime"] != "nvidia":
        return []
    values = [line.partition("=")[2] for line in item["visible"] if line]
    return [word for value in values for word in value.split(",") if word not in ("", "none", "void")]


def _ports(item: Mapping[str, Any]) -> list[int]:
    bindings = [binding for found in (item["ports"] or {}).values() for binding in found or ()]
    return sorted({int(binding["HostPort"]) for binding in bindings if (binding["HostPort"] or "").isdigit()})


def listening(found: Docker) -> list[dict[str, Any]]:
    """The sockets that are not Docker's."""
    return [
        {"address": one.address, "port": one.port, "program": one.program or "a program"}
        for one in found.listening
        if one.program not in FORWARDERS
    ]
