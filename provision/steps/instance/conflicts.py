"""A guard: the cards and ports of a host's instances are free or ours. A card or a port of somebody else is refused
before anything is changed, and the message names the holder.

Docker itself lets two containers share a card without a word (docs/facts.md#docker-accepts). A container that was given
this very card holds the card. A container that was given all cards may only watch, as exporters of metrics do, and
holds only the cards on which nvidia-smi lists a process of the container. A process outside Docker holds a card if
nvidia-smi lists the process.
"""

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
        cards: instance -> its cards: indices or UUIDs.
        ports: instance -> its port.
        address: the address of the instances, or a pure function from the host facts to the address.
        tolerate: names of containers, and of programs outside Docker, that may use the cards of instances.
        setting: the name of `tolerate` in the inventory.
    """

    cards: Mapping[str, tuple[int | str, ...]]
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
        return inspect.fact(_state)

    def want(self, facts: HostFacts, have: State) -> State:
        """The state on the host, or a refusal."""
        address = self.address(facts) if callable(self.address) else self.address
        complaints = [*self._cards(facts, have or {}), *self._ports(address, have or {})]
        if complaints:
            raise RefusalError("; ".join(complaints))
        return have

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return ()

    def check(self, live: Any) -> Iterator[Check]:
        """Nobody else took a card or a port since. `require:cards` proves that nvidia-smi answers."""
        have = _state(inspect.read_live(live))
        ports = set(self.ports.values())
        pairs = ((holder["name"], port) for holder in have["foreign"] for port in holder["ports"] if port in ports)
        held = [f"{name} holds port {port}" for name, port in pairs]
        yield Check("foreign containers on the ports", held, [])
        yield Check("others on the cards", list(self._cards(live_facts(live), have)), [])

    def _cards(self, facts: HostFacts, have: Mapping[str, Any]) -> Iterator[str]:
        """Yield a sentence for each card with another holder."""
        for instance, names in self.cards.items():
            for card_name in names:
                card = facts.card(card_name)
                for name, use in dict(holders(card, have) if card else ()).items():
                    if name not in self.tolerate:
                        what = f"card {card_name} of {instance} is {use}"
                        yield f"{what}; stop {name}, or list the name in {self.setting}"

    def _ports(self, address: str, have: Mapping[str, Any]) -> Iterator[str]:
        places = (address, *EVERY_ADDRESS)
        for instance, port in self.ports.items():
            for holder in have.get("foreign", ()):
                if port in holder["ports"]:
                    yield f"port {port} of {instance} is published by the container {holder['name']}, which is not ours"
            for listener in have.get("listening", ()):
                if listener["port"] == port and listener["address"] in places:
                    yield f"port {port} of {instance} is taken by {listener['program']} on {listener['address']}"


def holders(card: Card, have: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the other holders of a card: the name for `tolerate`, and a sentence part about the use. The last entry
    wins.

    Args:
        card: the card.
        have: the state of `Holders`, with the keys `foreign` and `applications`.
    """
    applications = have.get("applications")
    for container in have.get("foreign", ()):
        if _is_given(container["cards"], card):
            yield container["name"], f"held by the container {container['name']}, which is not ours"
        elif "all" in container["cards"] and applications is None:
            why = "which is not ours, was given all cards, and may use it: nvidia-smi does not list who does"
            yield container["name"], f"held by the container {container['name']}, {why}"
    for process in applications or ():
        if process["card"] == card.uuid:
            program = f"{process['program']} ({_details(process)})"
            if container := process["container"]:
                yield container, f"used by {program} of the container {container}, which is not ours"
            else:
                yield process["program"], f"used by {program}, which runs outside Docker"


def _is_given(cards: Sequence[str], card: Card) -> bool:
    """Whether a container was given this very card: Docker counts the cards as nvidia-smi does."""
    counts = [int(word.removeprefix("first ")) for word in cards if word.startswith("first ")]
    return str(card.index) in cards or card.uuid in cards or any(card.index < count for count in counts)


def _details(process: Mapping[str, Any]) -> str:
    """Return id, user and memory of a process, as far as known."""
    user, mib = process.get("user"), process.get("mib")
    words = [f"pid {process['pid']}", f"user {user}" if user else "", f"{mib} MiB" if mib is not None else ""]
    return ", ".join(filter(None, words))


def _state(docker: Docker) -> dict[str, Any]:
    return {"foreign": foreign(docker), "listening": listening(docker), "applications": applications(docker)}


def _is_foreign(item: Mapping[str, Any]) -> bool:
    return "1" not in map((item["labels"] or {}).get, (MANAGED, PROBE))


def applications(docker: Docker) -> list[dict[str, Any]] | None:
    """Return the processes on the cards outside of our containers; None if nvidia-smi did not list processes."""
    if docker.applications is None:
        return None
    return [
        {
            "card": process.card,
            "pid": process.pid,
            "program": process.program,
            "container": process.container,
            "user": process.user,
            "mib": process.mib,
        }
        for process in docker.applications
        if not process.container or _is_foreign(docker.containers[process.container])
    ]


def foreign(docker: Docker) -> list[dict[str, Any]]:
    """Return the running containers that are not ours, with their cards and ports."""
    return [
        {"name": name, "cards": cards_of(item) + _visible(item), "ports": _ports(item)}
        for name, item in sorted(docker.containers.items())
        if _is_foreign(item) and item["status"] in ("running", "restarting", "paused")
    ]


def _visible(item: Mapping[str, Any]) -> list[str]:
    """Return cards given by a variable, which works only in NVIDIA's runtime (docs/facts.md#the-gpus-option)."""
    if item["runtime"] != "nvidia":
        return []
    values = [line.partition("=")[2] for line in item["visible"] if line]
    return [word for value in values for word in value.split(",") if word not in ("", "none", "void")]


def _ports(item: Mapping[str, Any]) -> list[int]:
    bindings = [binding for port in (item["ports"] or {}).values() for binding in port or ()]
    return sorted({int(binding["HostPort"]) for binding in bindings if (binding["HostPort"] or "").isdigit()})


def listening(docker: Docker) -> list[dict[str, Any]]:
    """Return the sockets that are not Docker's."""
    return [
        {"address": socket.address, "port": socket.port, "program": socket.program or "a program"}
        for socket in docker.listening
        if socket.program not in FORWARDERS
    ]
