"""Whether an instance is closed to a neighbour, a host of the inventory without access: the neighbour tries to connect.

A host's own rules prove little: another program may accept a packet earlier, or a network in between may lead around
the rules. Each instance is tried by one neighbour, and a neighbour tries all its instances in one exec. A neighbour on
the same link also sends packets to the container's own address, and to a port published on 127.0.0.1 (`link`): both go
around the published address. If every host has access, the operator's machine tries (`outside`). If the neighbour turns
out to have access, the instance counts as not asked. If the neighbour gives no answer, the proof fails.
"""

import ipaddress
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from provision.command import READ_TIMEOUT, Answer, Run, Script, sh
from provision.errors import HostError
from provision.inventory import Host, Inventory, topology
from provision.plan.role_interface import declaring
from provision.steps import engines
from provision.steps.base import NOT_ASKED, Check
from provision.steps.facts import HostFacts
from provision.steps.instance import endpoint
from provision.verify import link

KIND = "neighbour:"
PATIENCE = 3  # seconds for one connection: a dropped packet gets no answer
AT_ONCE = 32  # connections at the same time from one neighbour
EVERYBODY = "0.0.0.0/0"

# Arguments: address, port, and the host that a packet is sent to, or `-` for the usual route. Output: a line for each
# question with its number, the source address of this host, and the exit code of the attempt. Every supported
# distribution has bash.
SCRIPT = Script(
    "verify/neighbours",
    rf"""{link.SHELL}
number=0
while [ $# -ge 3 ]; do
  {{
    rc=0; source=''
    if [ "$3" = - ]; then
      source=$(ip -o route get "$1" 2>/dev/null | sed -n 's/.* src \([^ ]*\).*/\1/p')
      timeout {PATIENCE} bash -c 'exec 3<>"/dev/tcp/$1/$2"' ask "$1" "$2" >/dev/null 2>&1 || rc=$?
    else
      asks_link "$3" "$1" "$2" {PATIENCE} || rc=$?
    fi
    printf '%s %s %s\n' "$number" "${{source:--}}" "$rc"
  }} &
  number=$((number + 1))
  [ $((number % {AT_ONCE})) -ne 0 ] || wait
  shift 3
done
wait
""",
)
REACHED, CLOSED = ("0",), ("1", "124")  # exit codes: connected; refused or no route, no answer
LINE = re.compile(r"(\d{1,6}) (\S{1,45}) (\d{1,3})")


@dataclass(frozen=True)
class Way:
    """A way to an instance.

    Args:
        address: the address asked for.
        port: the port asked for.
        gate: the address of the host that a packet for `address` is sent to; empty for the usual route.
    """

    address: str
    port: int
    gate: str = ""


@dataclass(frozen=True)
class Place:
    """An instance, as its neighbours would reach it.

    Args:
        host: the name of the host.
        instance: the name of the instance.
        address: the published address.
        port: the published port.
        admitted: the networks with access.
        senders: names of the balancers that send to the instance.
        role: the role whose settings list these networks.
        gate: an address of the host for its neighbours on the link.
        container: the container's own address; empty if unknown.
        inside: the port of the server inside the container.
    """

    host: str
    instance: str
    address: str
    port: int
    admitted: tuple[str, ...]
    senders: frozenset[str]
    role: str = ""
    gate: str = ""
    container: str = ""
    inside: int = 0

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways that a neighbour tries: the published address, then the ways around the published address."""
        local = ipaddress.ip_address(self.address).is_loopback
        published = Way(self.address, self.port, self.gate if local else "")
        return (published, Way(self.container, self.inside, self.gate)) if self.container else (published,)

    @property
    def step(self) -> str:
        """The id of the question among the ids of steps."""
        return f"{KIND}{self.instance}"

    @property
    def label(self) -> str:
        """`HOST/INSTANCE`."""
        return f"{self.host}/{self.instance}"

    def admits(self, address: str) -> bool:
        """Whether an address has access. Text that is no address has none."""
        try:
            source = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(source in ipaddress.ip_network(network) for network in self.admitted)


@dataclass(frozen=True)
class Reply:
    """The result of one question.

    Args:
        place: the instance.
        asker: the name of the neighbour, or empty.
        reached: whether the neighbour reached the instance; None if not asked or not known.
        why: the reason for None; else empty.
        failed: whether the neighbour was asked and gave no answer: the proof fails, because the instance may be open.
        way: the way tried, or None.
    """

    place: Place
    asker: str = ""
    reached: bool | None = None
    why: str = ""
    failed: bool = False
    way: Way | None = None

    def check(self) -> Check:
        """Return the proof, or the reason why there is none."""
        way = self.way or Way(self.place.address, self.place.port)
        around = f" by way of {self.place.host}" if way.gate else ""
        if self.reached is None and not self.failed:
            return Check(f"{NOT_ASKED}whether {self.place.label} is closed to others{around}: {self.why}", True, True)
        name = f"{way.address}:{way.port} is closed to {self.asker}{around}"
        return Check(name, self.why or ("open" if self.reached else "closed"), "closed")


Places = Callable[[Host, Inventory, HostFacts], tuple["Place", ...]]
"""Returns the instances of a host that neighbours may be able to reach; see `places`."""


def places(host: Host, inventory: Inventory, facts: HostFacts) -> tuple[Place, ...]:
    """Return the instances of a host, as neighbours may be able to reach them; none without another host.

    Args:
        host: one host.
        inventory: the whole inventory, for the balancers.
        facts: facts about the host.

    Raises:
        RefusalError: the listen address or the networks with access are unknown.
    """
    if not host.instances or len(inventory.hosts) == 1:
        return ()
    local = endpoint.is_local(host, inventory)
    address = endpoint.listen_address(host, inventory, facts)
    common = Place(
        host=host.name,
        instance="",
        address=address,
        port=0,
        admitted=() if local else endpoint.admitted(host, inventory, facts),
        senders=frozenset(balancer.name for balancer in topology.balancers(host, inventory)),
        role=declaring(host),
        gate=host.connection.address if local else address,
        inside=engines.of(host.serving).probe.port,
    )
    own = {place.container: place.address for place in facts.attached}
    return tuple(
        replace(common, instance=instance.name, port=instance.port, container=own.get(instance.name, ""))
        for instance in host.instances
    )


def assign(places: Iterable[Place], hosts: Sequence[Host]) -> tuple[dict[str, list[Place]], list[Reply]]:
    """Choose a neighbour for each instance.

    Args:
        places: the instances.
        hosts: the hosts with a connection, in the order of the inventory.

    Returns:
        host -> instances to try to reach, where the empty name is for instances without a neighbour; and a reply for
        each instance that lets everybody in.
    """
    by_asker: dict[str, list[Place]] = {}
    unasked = []
    for place in places:
        if EVERYBODY in place.admitted:
            unasked.append(Reply(place, why=f"{place.role}.admit lets everybody in"))
        else:
            by_asker.setdefault(neighbour(place, hosts), []).append(place)
    return by_asker, unasked


def ask(asker: str, questions: Sequence[Place], run: Callable[[Run], Answer]) -> list[Reply]:
    """Have a neighbour try to reach instances, in one exec.

    Args:
        asker: the name of the neighbour.
        questions: the instances.
        run: runs a command on the neighbour.
    """
    try:
        return parse(asker, questions, run(command(questions)))
    except Exception as error:  # noqa: BLE001 - the results of other hosts wait for every reply
        reason = error.message if isinstance(error, HostError) else repr(error)
        why = f"{asker} was asked and gave no answer: {reason}"
        return [Reply(place, asker, why=why, failed=True, way=way) for place, way in _ways(questions)]


def neighbour(place: Place, hosts: Sequence[Host]) -> str:
    """Choose the neighbour that tries an instance: the next host without access, so that the work is spread.

    Args:
        place: the instance.
        hosts: the hosts with a connection.

    Returns:
        the name of the host; empty if every host has access.
    """
    names = [host.name for host in hosts]
    start = names.index(place.host) + 1 if place.host in names else 0
    after = itertools.islice(itertools.cycle(hosts), start, start + len(hosts))
    return next((host.name for host in after if _is_shut_out(host, place)), "")


def _is_shut_out(host: Host, place: Place) -> bool:
    mine = host.name == place.host or host.name in place.senders
    return not mine and EVERYBODY not in place.admitted and not place.admits(host.connection.address)


def _ways(questions: Iterable[Place]) -> list[tuple[Place, Way]]:
    return [(place, way) for place in questions for way in place.ways]


def command(questions: Iterable[Place]) -> Run:
    """Return the command of a neighbour: all its questions at once."""
    words = [word for _, way in _ways(questions) for word in (way.address, str(way.port), way.gate or "-")]
    rounds = 1 + len(words) // 3 // AT_ONCE
    # On a link the script waits for the link address first, and may wait a second longer in each of its attempts.
    timeout = READ_TIMEOUT + (2 * PATIENCE + 1) * rounds
    return sh(SCRIPT, *words, title="ask the ports of other hosts' instances", timeout=timeout)


def parse(asker: str, questions: Sequence[Place], answer: Answer) -> list[Reply]:
    """Parse the answer of a neighbour: a reply for each way to each instance, in order.

    Args:
        asker: the name of the neighbour.
        questions: the instances, in the order given to `command`.
        answer: to the command.
    """
    lines = (LINE.fullmatch(line) for line in answer.text.splitlines())
    attempts = {int(line[1]): (line[2], line[3]) for line in lines if line}
    asked = enumerate(_ways(questions))
    return [_reply(Reply(place, asker, way=way), attempts.get(number)) for number, (place, way) in asked]


def _reply(asked: Reply, attempt: tuple[str, str] | None) -> Reply:
    source, code = attempt or ("", "")
    asker, place = asked.asker, asked.place
    if place.admits(source):
        return replace(asked, why=f"{asker} asks from {source}, which the instance admits")
    if code in (*REACHED, *CLOSED):
        return replace(asked, reached=code in REACHED)
    if code == str(link.NO_LINK) and asked.way and asked.way.gate:
        return replace(asked, why=f"{asker} is not on one link with {place.host}")
    return replace(asked, why=f"{asker} could not try to connect (exit code {code or 'unknown'})", failed=True)
