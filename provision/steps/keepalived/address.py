"""The common address of the balancers: a guard before any change, and the proof of a single holder.

The read connects to a port of the address, so that the kernel asks for the link-layer address by ARP, and takes the
answer from the kernel's table of neighbours (ip-neighbour(8)). A balancer that holds the address gives its own
link-layer address, so the answers of all balancers are equal where the address has a single holder.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Answer, Command, Script, look
from provision.steps.base import Check, Fact, RefusalError, State, Step, UnreadableError
from provision.steps.facts import INTERFACE, HostFacts
from provision.steps.keepalived.layout import UNIT
from provision.steps.live import read_once

NAME = "holder of the address"
"""The name under which verify compares the answers of all balancers."""
PATIENCE = 1  # seconds for a connection; a free address gives no answer
PREFIX = 32  # keepalived adds the address with this prefix length, so a greater network is not keepalived's

# $1 the address, $2 a port, then the addresses of the other balancers. An entry of the kernel's table may be old, so
# the script has the kernel ask anew. An entry less is no change of the host: every connection makes the entry again.
SCRIPT = Script(
    "keepalived/read-address",
    rf"""
address=$1 port=$2; shift 2
own() {{ ip -4 -o addr show 2>/dev/null | awk '{{print $2, $4}}'; }}
link() {{
  way=$(ip -4 -o route get "$1" 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p')
  ip -4 neigh del "$1" dev "$way" 2>/dev/null || :
  timeout {PATIENCE} bash -c 'exec 3<>"/dev/tcp/$1/$2"' ask "$1" "$port" 2>/dev/null || :
  ip -4 neigh show to "$1" 2>/dev/null | sed -n 's/.* lladdr \([^ ]*\).*/\1/p'
}}
echo '# own'; own
echo '# links'; cd /sys/class/net && for name in *; do echo "$name $(cat "$name/address")"; done
echo '# answers'; case "$(own)" in *" $address/"*) ;; *) link "$address" ;; esac
echo '# peers'; for peer do
  found=$(getent ahostsv4 "$peer" 2>/dev/null | awk 'NR==1{{print $1}}') || :
  echo "$peer ${{found:--}} $(link "${{found:-$peer}}")"
done
echo '# end'
""",
)
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


@dataclass(frozen=True, kw_only=True)
class VirtualAddress(Step):
    """A guard: the common address belongs to the network of this balancer, and to no stranger. Changes nothing.

    Args:
        address: the common IPv4 address.
        port: a port to which the read connects.
        url: where clients ask; the proof asks there too.
        peers: the other balancers: name -> its address in the inventory.
    """

    guards_host: ClassVar[bool] = True

    address: str
    port: int
    url: str
    peers: Mapping[str, str]

    @property
    def id(self) -> str:
        """`vip:ADDRESS`."""
        return f"vip:{self.address}"

    @property
    def compared_as(self) -> str:
        """All balancers have to name the same holder."""
        return NAME

    def fact(self) -> Fact:
        """Reads the own networks, and who answers for the address."""
        words = (self.address, str(self.port), *self.peers.values())
        command = look(SCRIPT, *words, title=f"ask who has {self.address}")
        return Fact(command, lambda answer: parse(answer, self.address))

    def want(self, facts: HostFacts, have: State) -> State:
        """Nothing. Refuses a network without the address, an address of a stranger, and peers out of reach."""
        if have is None:
            return {}
        interface = self._interface(have)
        source(facts, self.peers, interface)
        if have["holds"] and not have["added"]:
            raise RefusalError(
                f"{self.address} is an address of this host by other means than keepalived ({have['holds']}): remove"
                " the address from the network configuration of the host, or choose another balancer.vip.address"
            )
        links = {peer: have["peers"].get(at, "") for peer, at in self.peers.items()}
        if not have["holds"] and have["answers"] and have["answers"] not in links.values():
            known = ", ".join(f"{peer} {link or 'gives no answer'}" for peer, link in links.items())
            raise RefusalError(
                f"{have['answers']} answers for {self.address}, and that is no balancer ({known}): find the machine"
                " with this link-layer address, or choose another balancer.vip.address"
            )
        return {}

    def _interface(self, seen: Mapping[str, Any]) -> str:
        interface = str(seen["interface"])
        if not interface:
            raise RefusalError(
                f"{self.address} is in no network of this host ({', '.join(seen['networks']) or 'none known'}):"
                " balancer.vip.address has to be in the network of all balancers"
            )
        return interface

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """The address has a holder, the same by the word of every balancer, and nginx answers there."""
        seen = parse(read_once(live, self.fact().command), self.address)
        holder = seen["answers"] or self._nobody(live)
        what = f"who has {self.address} (if answers differ, each has: the balancers do not hear protocol 112)"
        yield Check(what, holder, seen["answers"] or "a balancer", compared=True)
        code = live.run("curl --noproxy '*' -sk -o /dev/null -m 5 -w %s %s", "%{http_code}", self.url).stdout
        yield Check(f"an answer at {self.url}", code.strip() not in ("", "000"), True)

    def _nobody(self, live: Any) -> str:
        """The last word of keepalived, where nobody has the address."""
        said = live.run("journalctl -q --no-pager -o cat -n 1 -u %s", UNIT).stdout.strip()
        return f"nobody; keepalived on this host: {said[:200] or 'no word'}"


def source(facts: HostFacts, peers: Mapping[str, str], interface: str = "") -> str:
    """Return the host's own address towards the other balancers.

    Args:
        facts: of the host.
        peers: the other balancers: name -> its address in the inventory.
        interface: the interface with the network of the common address; empty for any.

    Raises:
        RefusalError: there is no such address, or several, or VRRP would travel on another interface.
    """
    found = {peer: facts.sources.get(at, "") for peer, at in peers.items()}
    lost = [peer for peer, own in found.items() if not own]
    if lost:
        raise RefusalError(f"this host finds no route to {', '.join(lost)}, and balancers of an address need one")
    own = sorted(set(found.values()))
    if len(own) > 1:
        raise RefusalError(f"this host reaches the other balancers from several addresses ({', '.join(own)})")
    on = facts.interfaces.get(own[0], "")
    if not (_is(own[0]) and INTERFACE.fullmatch(on)):
        raise RefusalError(f"this host reaches the other balancers from {own[0]}, by no interface with an IPv4 address")
    if interface and on != interface:
        raise RefusalError(
            f"this host reaches the other balancers by {on or 'an unknown interface'}, and the network of"
            f" balancer.vip.address is at {interface}: the balancers have to see each other where their clients are"
        )
    return own[0]


def resolved(facts: HostFacts, peers: Mapping[str, str]) -> list[str]:
    """Return the IPv4 addresses of the other balancers.

    Args:
        facts: of the host.
        peers: the other balancers: name -> its address in the inventory.

    Raises:
        RefusalError: the host does not know an IPv4 address of a balancer.
    """
    found = {peer: facts.resolved.get(at, "") for peer, at in peers.items()}
    unknown = [peer for peer, at in found.items() if not _is(at) or "/" in at]
    if unknown:
        raise RefusalError(f"this host knows no IPv4 address of {', '.join(unknown)}, and VRRP here is for IPv4")
    return list(found.values())


def parse(answer: Answer, address: str) -> dict[str, Any]:
    """Parse the answer to the read.

    Args:
        answer: the answer.
        address: the common address.

    Returns:
        `interface`: the interface whose network has the address; empty for none. `networks`: all networks. `holds`: the
        address with its prefix length if this host has it; else empty. `added`: whether keepalived added the address.
        `answers`: the link-layer address that answers for the address. `peers`: peer -> link-layer address. `at`:
        peer -> its IPv4 address.

    Raises:
        UnreadableError: the answer is not whole.
    """
    sections = _sections(answer)
    pairs = ((name.partition("@")[0], at) for name, at in _pairs(sections["own"]))
    own = [(name, ipaddress.IPv4Interface(at)) for name, at in pairs if INTERFACE.fullmatch(name) and _is(at)]
    wanted = ipaddress.ip_address(address)
    held = next((at for _, at in own if at.ip == wanted), None)
    networks = [(name, at) for name, at in own if at.network.prefixlen < PREFIX]
    interface = next((name for name, at in networks if wanted in at.network and at.ip != wanted), "")
    links = dict(_pairs(sections["links"]))
    peers = [[*line.split(), "", ""][:3] for line in sections["peers"]]
    return {
        "interface": interface,
        "networks": [f"{name} {at.network}" for name, at in networks],
        "holds": str(held or ""),
        "added": held is not None and held.network.prefixlen == PREFIX,
        "answers": _mac(links.get(interface, "") if held else " ".join(sections["answers"])),
        "peers": {peer: _mac(link) for peer, _, link in peers if peer},
        "at": {peer: at for peer, at, _ in peers if peer and _is(at) and "/" not in at},
    }


def _sections(answer: Answer) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {"own": [], "links": [], "answers": [], "peers": []}
    current: list[str] = []
    for line in answer.text.splitlines():
        if line.startswith("# "):
            current = sections.setdefault(line[2:], [])
        else:
            current.append(line.strip())
    if answer.exit or "end" not in sections:
        raise UnreadableError(answer.complaint or "the answer about the common address ends early")
    return sections


def _pairs(lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(words[0], words[1]) for words in map(str.split, lines) if len(words) == 2]


def _is(text: str) -> bool:
    try:
        ipaddress.IPv4Interface(text)
    except ValueError:
        return False
    return True


def _mac(text: str) -> str:
    found = _MAC.search(text)
    return found[0] if found else ""
