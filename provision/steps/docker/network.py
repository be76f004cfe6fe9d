"""A Docker network with a single instance, and the finder of networks with our mark.

Containers on one bridge reach each other at every port, and Docker drops packets from bridge to bridge
(docs/facts.md#docker-ports). Docker would take the subnet from blocks that may be the site's own, so each network takes
a free subnet of a declared pool. The pool is a part of the network's name: another pool makes another network, and the
container moves there as for any other change of a container. The host chooses the subnet, so a removed instance moves
no other instance.
"""

import hashlib
import ipaddress
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps.base import Check, Fact, Owned, RefusalError, State, Step
from provision.steps.docker import inspect
from provision.steps.docker.inspect import MANAGED, Docker
from provision.steps.docker.isolation import INTERFACES
from provision.steps.facts import HostFacts
from provision.steps.wording import Vocabulary, Words

LOOPBACK = "127.0.0.1"
SUBNET = 28  # prefix length: an address for the bridge, and one for the container and its successor
MOST = 256  # subnets of a pool to try
PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))  # RFC 1918
_NAME = re.compile(r"(.{1,63})\.(\d{1,3}(?:\.\d{1,3}){3})-(\d{1,2})")

# $1 network, $2 interface, then subnets: the first free subnet is taken. Any other error than a taken subnet ends the
# search.
CREATE = Script(
    "docker/create-network",
    rf"""
name=$1; interface=$2; shift 2
for subnet do
  if said=$(docker network create --driver bridge --subnet "$subnet" --label {MANAGED}=1 \
      --opt com.docker.network.bridge.name="$interface" -- "$name" 2>&1); then exit 0; fi
  case $said in *overlaps*) ;; *) printf '%s\n' "$said" >&2; exit 1 ;; esac
done
echo "no subnet of the pool is free: $said" >&2
exit 1
""",
)
# Docker would remove the network of a stopped container, which could not start again.
REMOVE = Script(
    "docker/remove-network",
    r"""
users=$(docker ps -a --filter network="$1" --format '{{.Names}}')
[ -z "$users" ] || { echo "the network $1 is still that of $(echo $users)" >&2; exit 1; }
docker network rm -- "$1" >/dev/null
""",
)
# $1 container, then addresses and ports; prints the places that answer. Asked from the container's own place in the
# network, because an image has no tool for the question.
REACHED = r"""set -eu
pid=$(docker inspect --type container --format '{{.State.Pid}}' "$1"); shift
while [ $# -ge 2 ]; do
  { nsenter -t "$pid" -n timeout 3 bash -c 'exec 3<>"/dev/tcp/$1/$2"' ask "$1" "$2" 2>/dev/null && echo "$1:$2"; } &
  shift 2
done
wait
"""


def network_name(instance: str, pool: str) -> str:
    """Return the name of the network of an instance.

    Args:
        instance: name of the instance.
        pool: the network of which the instance's network is a part, such as `10.213.0.0/24`.
    """
    return f"{instance}.{ipaddress.ip_network(pool)}".replace("/", "-")


def instance_of(network: str) -> str:
    """Return the instance of a network of ours; empty for any other name."""
    match = _NAME.fullmatch(network)
    return match[1] if match else ""


def interface(network: str) -> str:
    """Return the name of a network's bridge on the host."""
    return INTERFACES + hashlib.sha256(network.encode()).hexdigest()[:8]


def subnets(network: str) -> tuple[str, ...]:
    """Return the subnets that a network may take, in order; none for a name that is not ours."""
    match = _NAME.fullmatch(network)
    try:
        pool = ipaddress.IPv4Network(f"{match[2]}/{match[3]}") if match else None
        parts = pool.subnets(new_prefix=SUBNET) if pool else ()
        return tuple(map(str, itertools.islice(parts, MOST)))
    except ValueError:
        return ()


def pool_complaint(pool: str, instances: int) -> str:
    """Return why a pool cannot hold the networks of a host; empty for a good pool.

    Args:
        pool: an IPv4 network.
        instances: how many instances the host has.
    """
    network = ipaddress.IPv4Network(pool)
    if not any(network.subnet_of(private) for private in PRIVATE):
        return f"must be a private network, such as 10.213.0.0/24: Docker would hide {network} from this host"
    if network.prefixlen > SUBNET:
        return f"must have room for a /{SUBNET} of each instance"
    if (room := min(2 ** (SUBNET - network.prefixlen), MOST)) < instances:
        return f"has room for {room} networks of /{SUBNET}, and the host has {instances} instances"
    return ""


@dataclass(frozen=True, kw_only=True)
class Network(Step):
    """A network of one instance, on a bridge of its own.

    Args:
        name: from `network_name`.
    """

    stands_apart = True
    words: ClassVar[Vocabulary] = {
        "ours": Words("not made by provision"),
        "apart": Words("other subnet, bridge or driver than provision gives"),
    }

    name: str

    @property
    def id(self) -> str:
        """`network:NAME`."""
        return f"network:{self.name}"

    def fact(self) -> Fact:
        """Reads Docker's networks."""
        return inspect.fact(lambda docker: state(docker, self.name))

    def want(self, facts: HostFacts, have: State) -> State:
        """Present, ours, and a bridge of its own in the pool. Refuses any other network of the name: Docker changes no
        network, and a network with a container cannot be made anew. Refuses a pool with an address of the site."""
        taken = _taken(self.name, facts)
        if taken:
            raise RefusalError(
                f"the pool of {self.name} holds {taken}, which this host could not reach any more; choose another pool"
            )
        if have is not None and not (have["ours"] and have["apart"]):
            raise RefusalError(
                f"a network named {self.name} is there that is not as provision makes it; take its containers off and"
                f" remove the network: docker network inspect {self.name}; docker network rm {self.name}"
            )
        return {"ours": True, "apart": True}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Creates or removes the network."""
        if want is None:
            return [sh(REMOVE, self.name, title=f"remove network {self.name}")] if have else []
        words = (self.name, interface(self.name), *subnets(self.name))
        return [sh(CREATE, *words, title=f"create network {self.name}")]

    def check(self, live: Any) -> Iterator[Check]:
        """The instance reaches itself, and no other instance of the host at its own or its published address."""
        yield from self.proofs(live, inspect.read_live(live))

    def proofs(self, live: Any, docker: Docker) -> Iterator[Check]:
        """The proofs of `check`.

        Args:
            live: testinfra's host.
            docker: the state of Docker.
        """
        name = instance_of(self.name)
        yield Check("a bridge of its own", state(docker, self.name), {"ours": True, "apart": True})
        own = docker.containers.get(name, {})
        if own.get("status") != "running":
            return
        itself = [f"{LOOPBACK}:{port.partition('/')[0]}" for port in own["ports"] or ()]
        words = [word for place in (*itself, *sorted(_places(docker, name))) for word in place.rsplit(":", 1)]
        result = live.run("sh -c %s sh %s" + " %s" * len(words), REACHED, name, *words)
        yield Check("places it reaches", sorted(result.stdout.split()) or result.stderr.strip(), sorted(itself))


def state(docker: Docker, name: str) -> State:
    """Return the state of a network; None where it is not there."""
    item = docker.networks.get(name)
    if item is None:
        return None
    labels = item.get("Labels") or {}
    parts = [str(part.get("Subnet")) for part in (item.get("IPAM") or {}).get("Config") or ()]
    bridge = (item.get("Options") or {}).get("com.docker.network.bridge.name")
    apart = len(parts) == 1 and parts[0] in subnets(name) and bridge == interface(name)
    return {"ours": labels.get(MANAGED) == "1", "apart": apart and item.get("Driver") == "bridge"}


def _taken(name: str, facts: HostFacts) -> str:
    """Return an address of the site in the pool of a network, with its place; empty for none."""
    match = _NAME.fullmatch(name)
    pool = ipaddress.ip_network(f"{match[2]}/{match[3]}") if match else None
    own = {at: link for at, link in facts.interfaces.items() if not link.startswith(INTERFACES)}
    peers = {at: peer for peer, at in facts.resolved.items() if at}
    places = (f"{at} ({place})" for at, place in {**own, **peers}.items() if pool and ipaddress.ip_address(at) in pool)
    return next(places, "")


def _places(docker: Docker, own: str) -> Iterator[str]:
    """Yield `ADDRESS:PORT` of every other running container of ours: its own, and the published addresses."""
    for name, item in docker.containers.items():
        if name == own or item["status"] != "running" or (item["labels"] or {}).get(MANAGED) != "1":
            continue
        for port, bound in (item["ports"] or {}).items():
            inside = port.partition("/")[0]
            yield from (f"{at[0]}:{inside}" for at in item.get("attached") or () if at and at[0])
            yield from (f"{at['HostIp']}:{at['HostPort']}" for at in bound or () if _is_outside(at["HostIp"]))


def _is_outside(address: str) -> bool:
    """Whether a container can mean the host by an address: 127.0.0.1 is the container itself."""
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class OwnedNetworks(Owned):
    """Finds the networks with our mark."""

    last: ClassVar[bool] = True  # a container is in its network until the container has moved, and so is the previous

    def fact(self) -> Fact:
        """Reads Docker's networks."""
        return inspect.fact(self._pick)

    def step(self, step_id: str) -> Step:
        """The network of that name, to be removed."""
        return Network(name=step_id.partition(":")[2])

    @staticmethod
    def _pick(docker: Docker) -> Mapping[str, Any]:
        states = ((name, state(docker, name)) for name in docker.networks)
        return {f"network:{name}": found for name, found in states if found and found["ours"]}
