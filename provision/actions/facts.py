"""Read the facts of hosts: system, Docker, disks and cards. Takes no lock and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from provision.actions.request import Request
from provision.actions.results import Answers, same_cards

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provision.command import Answer, Run
    from provision.inventory import Host
    from provision.ssh.transport import Transport
    from provision.steps.card_details import CardDetails, Details
    from provision.steps.docker.gpu_processes import Application, Listing
    from provision.steps.facts import HostFacts
    from provision.steps.nvidia_smi import Card
    from provision.steps.system.machine import Machine


@dataclass(frozen=True)
class DockerFacts:
    """Docker on a host.

    Args:
        state: `absent`, `stopped`, `running`, `silent` (runs, and does not answer), or `unknown`.
        version: version of a running daemon; empty where unknown.
        cgroup_driver: of a running daemon; empty where unknown.
        why: the evidence of a silent daemon or an unknown state; else empty.
        snap: whether Docker is a snap, which gives no cards to containers.
    """

    state: str
    version: str = ""
    cgroup_driver: str = ""
    why: str = ""
    snap: bool = False


@dataclass(frozen=True)
class HostReport:
    """The facts of one host.

    Args:
        facts: the host facts, with the cards. A broken driver is `facts.driver_error`.
        machine: kernel, memory and disks.
        docker: Docker.
        details: further values of the cards.
        processes: the processes on the cards; None where nvidia-smi lists none.
        instances: name of a container -> its instance of provision.
    """

    facts: HostFacts
    machine: Machine
    docker: DockerFacts
    details: Details
    processes: Listing | None
    instances: Mapping[str, str]

    @property
    def cards(self) -> Sequence[tuple[int, Card, CardDetails]]:
        """Every listed card with its index in the inventory and its details."""
        return [(index, card, self.details.of(card.uuid)) for index, card in self.facts.by_index.items()]

    def users(self, card: Card) -> Sequence[Application]:
        """Return the processes that hold memory of a card or of its MIG devices.

        Args:
            card: the card.
        """
        uuids = {card.uuid, *(device.uuid for device in self.details.of(card.uuid).devices)}
        listed = self.processes.applications if self.processes else ()
        return [process for process in listed if process.card in uuids]


@dataclass(frozen=True)
class Facts(Answers[HostReport]):
    """The facts of every selected host, or the host's error."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The warnings of the inventory, and cards that two hosts list."""
        cards = (
            (host.name, [card.uuid for card in answer.facts.cards])
            for host, answer in self.hosts
            if isinstance(answer, HostReport)
        )
        return (*self.inventory.warnings, *same_cards(cards))


def facts(request: Request) -> Facts:
    """Read the facts of the selected hosts, each in one exec. The hosts may be without instances.

    Args:
        request: selects the hosts.
    """
    from provision.actions import asking

    def work(host: Host, session: Transport) -> HostReport:
        commands = reads(host)
        return report(dict(zip(commands, session.batch(list(commands.values()), stop=False), strict=True)))

    answers = asking.ask(request, work, served=False)
    return Facts(answers.inventory, answers.hosts, answers.exit_code)


def reads(host: Host) -> dict[str, Run]:
    """Return the read-only commands about a host, by the names that `report` knows.

    Args:
        host: one host of the inventory.
    """
    from provision.inventory import duration_seconds, shared_settings
    from provision.steps import card_details, facts
    from provision.steps.docker import daemon_state, gpu_processes
    from provision.steps.system import machine, preflight

    limit = duration_seconds(shared_settings.toolkit(host).smi_timeout)
    return {
        "facts": facts.command((), limit, frozenset({facts.CARDS})),
        "machine": machine.command(),
        "docker": daemon_state.COMMAND,
        "snap": preflight.LOOK,
        "details": card_details.command(limit),
        "processes": gpu_processes.command(),
    }


def report(answers: Mapping[str, Answer]) -> HostReport:
    """Return the facts of a host by its answers.

    Args:
        answers: name of a command of `reads` -> the answer.

    Raises:
        FactError: the host facts are unreadable. Every other unreadable answer is an unknown value.
    """
    from provision.errors import FactError
    from provision.steps import card_details, facts
    from provision.steps.docker import gpu_processes
    from provision.steps.system import machine

    said = answers["facts"]
    try:
        host_facts = facts.parse(said.text)
    except ValueError as error:
        hint = "type the command again; if the error stays, try `sudo sh` on the host by hand"
        raise FactError(f"the host facts are unreadable: {error}", hint, stderr=said.complaint) from error
    processes, instances = gpu_processes.read(answers["processes"])
    return HostReport(
        facts=host_facts,
        machine=machine.read(answers["machine"]),
        docker=_docker(answers["docker"], answers["snap"]),
        details=card_details.read(answers["details"]),
        processes=processes,
        instances=instances,
    )


def _docker(answer: Answer, snap: Answer) -> DockerFacts:
    from provision.steps.base import UnreadableError
    from provision.steps.docker import daemon_state

    has_snap = snap.text.strip() == "snap"
    try:
        daemon = daemon_state.read(answer, silent=True)
    except UnreadableError as error:
        return DockerFacts("unknown", why=str(error)[:400], snap=has_snap)
    if not daemon.installed:
        return DockerFacts("absent", snap=has_snap)
    if not daemon.running:
        return DockerFacts("stopped", snap=has_snap)
    if daemon.silent:
        return DockerFacts("silent", why=daemon.silent[:400], snap=has_snap)
    return DockerFacts("running", _word(daemon.info.get("version")), _word(daemon.info.get("driver")), snap=has_snap)


def _word(value: Any) -> str:
    return value[:60] if isinstance(value, str) else ""
