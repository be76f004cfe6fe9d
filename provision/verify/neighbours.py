"""Whether an instance is closed to a neighbour, a host of the inventory without access: the neighbour tries to connect.

A host's own rules prove little: another program may accept a packet before it comes to them, or a network in between
may lead around them. Each instance is asked by one neighbour, each neighbour asks all its questions in one exec, and
where no host of the inventory has to be closed out, or the neighbour turns out to be admitted, the instance counts as
not asked. A neighbour that gives no answer fails the proof.
"""

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from provision.command import READ_TIMEOUT, Answer, Run, sh
from provision.errors import HostError
from provision.inventory import Host, Inventory, topology
from provision.plan.role_interface import declaring
from provision.steps.base import NOT_ASKED, Check
from provision.steps.facts import HostFacts
from provision.steps.instance import endpoint

KIND = "neighbour:"
PATIENCE = 3  # seconds for one connection: a packet that is dropped gets no answer
AT_ONCE = 32  # connections that a neighbour tries at the same time
EVERYBODY = "0.0.0.0/0"

# Arguments: pairs of address and port. A line for each: its number, the address that this host asks from, and the exit
# code of the attempt. Every supported distribution has bash.
SCRIPT = rf"""
number=0
while [ $# -ge 2 ]; do
  {{
    source=$(ip -o route get "$1" 2>/dev/null | sed -n 's/.* src \([^ ]*\).*/\1/p')
    rc=0; timeout {PATIENCE} bash -c 'exec 3<>"/dev/tcp/$1/$2"' ask "$1" "$2" >/dev/null 2>&1 || rc=$?
    printf '%s %s %s\n' "$number" "${{source:--}}" "$rc"
  }} &
  number=$((number + 1))
  [ $((number % {AT_ONCE})) -ne 0 ] || wait
  shift 2
done
wait
"""
REACHED, CLOSED = ("0",), ("1", "124")  # exit codes: connected; refused or no route, no answer
LINE = re.compile(r"(\d{1,6}) (\S{1,45}) (\d{1,3})")


@dataclass(frozen=True)
class Place:
    """An instance, as its neighbours would reach it.

    Args:
        host: name of its host.
        instance: its name.
        address: the address it is published on.
        port: likewise.
        admitted: the networks that may reach it.
        senders: names of the balancers that send to it.
    """

    host: str
    instance: str
    address: str
    port: int
    admitted: tuple[str, ...]
    senders: frozenset[str]

    @property
    def step(self) -> str:
        """What verify calls the question, beside the ids of steps."""
        return f"{KIND}{self.instance}"

    @property
    def label(self) -> str:
        """`HOST/INSTANCE`."""
        return f"{self.host}/{self.instance}"

    def admits(self, address: str) -> bool:
        """Whether it may be reached from an address. No text but an address is admitted."""
        try:
            source = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(source in ipaddress.ip_network(network) for network in self.admitted)


@dataclass(frozen=True)
class Reply:
    """What came of one question.

    Args:
        place: the instance.
        asker: name of the neighbour, or empty.
        reached: whether the neighbour reached it; None where that was not asked or cannot be told.
        why: why not; empty where `reached` says it.
        failed: whether the neighbour was asked and gave no answer: the proof fails, for the instance may be open.
    """

    place: Place
    asker: str = ""
    reached: bool | None = None
    why: str = ""
    failed: bool = False

    def check(self) -> Check:
        """The proof, or why there is none."""
        if self.reached is None and not self.failed:
            return Check(f"{NOT_ASKED}whether {self.place.label} is closed to others: {self.why}", True, True)
        name = f"{self.place.address}:{self.place.port} is closed to {self.asker}"
        return Check(name, self.why or ("open" if self.reached else "closed"), "closed")


def places(host: Host, inventory: Inventory, facts: HostFacts) -> tuple[Place, ...]:
    """The instances of a host that are published to a network; none on a loopback address.

    Args:
        host: one host.
        inventory: all of it, for the balancers.
        facts: of the host.

    Raises:
        RefusalError: where they listen, or whom they admit, is not known.
    """
    if not host.instances or endpoint.is_local(host, inventory):
        return ()
    address = endpoint.listen_address(host, inventory, facts)
    admitted = endpoint.admitted(host, inventory, facts)
    senders = frozenset(one.name for one in topology.balancers(host, inventory))
    return tuple(Place(host.name, one.name, address, one.port, admitted, senders) for one in host.instances)


def assign(asked: Iterable[Place], hosts: Sequence[Host]) -> tuple[dict[str, list[Place]], list[Reply]]:
    """Choose a neighbour for each instance.

    Args:
        asked: the instances.
        hosts: the hosts that can be connected to, in the order of the inventory.

    Returns:
        host -> the instances that it has to try to reach; a reply for each instance that no host has to.
    """
    by_asker: dict[str, list[Place]] = {}
    for place in asked:
        by_asker.setdefault(neighbour(place, hosts), []).append(place)
    return by_asker, [_unasked(place) for place in by_asker.pop("", [])]


def ask(asker: str, questions: Sequence[Place], run: Callable[[Run], Answer]) -> list[Reply]:
    """Have a neighbour try to reach instances, in one exec.

    Args:
        asker: name of the neighbour.
        questions: the instances.
        run: runs a command on the neighbour.
    """
    try:
        return parse(asker, questions, run(command(questions)))
    except Exception as error:  # noqa: BLE001 - the results of other hosts wait for every reply
        said = error.message if isinstance(error, HostError) else repr(error)
        why = f"{asker} was asked and gave no answer: {said}"
        return [Reply(place, asker, why=why, failed=True) for place in questions]


def neighbour(place: Place, hosts: Sequence[Host]) -> str:
    """The host that asks: the next one after the instance's own that must not reach it, so that the work is spread.

    Args:
        place: the instance.
        hosts: the hosts that can be connected to.

    Returns:
        its name; empty where every host may reach the instance.
    """
    names = [host.name for host in hosts]
    start = names.index(place.host) + 1 if place.host in names else 0
    after = itertools.islice(itertools.cycle(hosts), start, start + len(hosts))
    return next((host.name for host in after if _is_shut_out(host, place)), "")


def _is_shut_out(host: Host, place: Place) -> bool:
    mine = host.name == place.host or host.name in place.senders
    return not mine and EVERYBODY not in place.admitted and not place.admits(host.connection.address)


def _unasked(place: Place) -> Reply:
    if EVERYBODY in place.admitted:
        return Reply(place, why=f"{declaring()}.admit lets everybody in")
    return Reply(place, why="every host that was reached has access to the instance")


def command(questions: Iterable[Place]) -> Run:
    """What a neighbour runs: all its questions at once."""
    words = [word for place in questions for word in (place.address, str(place.port))]
    rounds = 1 + len(words) // 2 // AT_ONCE
    return sh(SCRIPT, *words, title="ask the ports of other hosts' instances", timeout=READ_TIMEOUT + PATIENCE * rounds)


def parse(asker: str, questions: Sequence[Place], answer: Answer) -> list[Reply]:
    """What a neighbour found.

    Args:
        asker: its name.
        questions: the instances, in the order in which `command` was given them.
        answer: to that command.
    """
    lines = (LINE.fullmatch(line) for line in answer.text.splitlines())
    found = {int(line[1]): (line[2], line[3]) for line in lines if line}
    return [_reply(asker, place, found.get(number)) for number, place in enumerate(questions)]


def _reply(asker: str, place: Place, found: tuple[str, str] | None) -> Reply:
    source, code = found or ("", "")
    if place.admits(source):
        return Reply(place, asker, why=f"{asker} asks from {source}, which the instance admits")
    if code in (*REACHED, *CLOSED):
        return Reply(place, asker, reached=code in REACHED)
    return Reply(place, asker, why=f"{asker} could not try to connect (exit code {code or 'unknown'})", failed=True)
