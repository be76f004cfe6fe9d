"""The ports that the inventory wants, and their holders.

Sources: ss(8); a published port of a container needs no listening process where Docker's userland proxy is off.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from provision.command import Answer, look
from provision.doctor.check import Check, Look, Subject
from provision.doctor.finding import Finding, bad, good, risk
from provision.inventory import Host, Inventory, shared_settings
from provision.steps.base import BlockedError, RefusalError, State, UnreadableError
from provision.steps.docker import inspect
from provision.steps.instance import conflicts, endpoint
from provision.steps.instance.conflicts import EVERY_ADDRESS, FORWARDERS
from provision.steps.nginx import listen


@dataclass(frozen=True)
class Wanted:
    """A port of the inventory.

    Args:
        what: the user of the port, in words.
        address: the address to listen on; `*` where the address is not known yet.
        port: the TCP port.
    """

    what: str
    address: str
    port: int


def wanted(subject: Subject) -> list[Wanted]:
    """Return the ports that a deploy needs on a host.

    Args:
        subject: the host.
    """
    host = subject.host
    try:
        address = endpoint.listen_address(host, subject.inventory, subject.facts) if host.instances else ""
    except RefusalError:
        address = "*"
    ports = [Wanted(instance.name, address, instance.port) for instance in host.instances]
    if host.balancer:
        balancer = shared_settings.balancer(host)
        ports += [Wanted("the balancer", address, balancer.port) for address in balancer.listen]
    return ports


def _ports(host: Host) -> tuple[str, ...]:
    own = [instance.port for instance in host.instances]
    own += [shared_settings.balancer(host).port] if host.balancer else []
    return tuple(map(str, dict.fromkeys(own)))


def _look(host: Host, inventory: Inventory) -> Look | None:
    ports = _ports(host)
    if not ports:
        return None
    sockets = look(listen.SCRIPT, *ports, title="list listening sockets")
    docker = (inspect.command(),) if host.gpu else ()
    return Look((sockets, *docker), partial(_state, gpu=host.gpu))


def _state(answers: Sequence[Answer], *, gpu: bool) -> State:
    if answers[0].exit or "# programs" not in answers[0].text:
        raise UnreadableError(answers[0].complaint or f"ss exited {answers[0].exit}")
    sockets = [vars(socket) for socket in listen.sockets(answers[0].text)]
    if not gpu:
        return {"sockets": sockets, "containers": {}}
    try:
        foreign = conflicts.foreign(inspect.read(answers[1]))
    except (BlockedError, UnreadableError):
        return {"sockets": sockets, "containers": None}
    return {"sockets": sockets, "containers": {item["name"]: item["ports"] for item in foreign if item["ports"]}}


def _judge(state: State, subject: Subject) -> Iterator[Finding]:
    state, ports = state or {}, wanted(subject)
    found = [finding for port in ports for finding in _held(port, state)]
    yield from found
    if not found:
        yield good("free or ours: " + ", ".join(f"{port.port} of {port.what}" for port in ports))


def _held(port: Wanted, state: State) -> Iterator[Finding]:
    state = state or {}
    for name, ports in (state["containers"] or {}).items():
        if port.port in ports:
            says = f"port {port.port} of {port.what} is published by the container {name}, which is not ours"
            yield bad(says, f"docker stop -- {shlex.quote(name)}")
    for socket in state["sockets"]:
        address, _, number = socket["address"].rpartition(":")
        if socket["ours"] or number != str(port.port) or not _clashes(address, port.address):
            continue
        holder = str(socket["holder"])
        if not holder.startswith(FORWARDERS):
            yield bad(f"port {port.port} of {port.what} is taken by {holder}", _stop(holder), socket["address"])
        elif state["containers"] is None:
            says = f"port {port.port} of {port.what} is published by a container, and Docker does not tell whose"
            yield risk(says, "docker ps", socket["address"])


def _clashes(held: str, own: str) -> bool:
    return held == own or held in EVERY_ADDRESS or own in EVERY_ADDRESS


def _stop(holder: str) -> str:
    """Return the command that stops the unit of a process."""
    pid = holder.partition("(pid ")[2].partition(",")[0]
    return f'systemctl disable --now "$(ps -o unit= -p {pid})"' if pid.isdigit() else "ss -Hltnp"


CHECKS = (Check("ports", _look, _judge),)
