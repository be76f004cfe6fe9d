"""A balancer's upstream as data: its settings and its members, each with its place, its weight and its marks.

This module alone reads and writes the text of `upstream.conf`. Each instance has one line `server ADDRESS:PORT ...; #
HOST/INSTANCE`. A drained instance has a comment of its own before the line, so that the balancer itself remembers the
drain, whatever becomes of the instance's host.
"""

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import NamedTuple

from provision.render import render
from provision.steps.base import State
from provision.steps.system.file_scan import Content

FILE = "upstream.conf"
TEMPLATE = f"balancer/{FILE}.j2"
ANY = "0.0.0.0"  # noqa: S104 - compared, not bound
NOWHERE = "192.0.2.1"  # TEST-NET-1, RFC 5737: no machine has this address; a member there is always down
NOBODY = "127.0.0.1:1"  # the server of an upstream without members: nginx refuses an upstream without servers
_MEMBER = re.compile(r"^[ \t]*server (\S+):([0-9]{1,5})((?: [^;#\n]*)?); # (\S+)$", re.MULTILINE)
_SERVER = re.compile(r"^[ \t]*server[ \t]+([^\s;]+)", re.MULTILINE)
_DRAINED = re.compile(r"^[ \t]*# drained (\S+) since (\S+) by (\S+): ?(.*)$", re.MULTILINE)
_METHOD = re.compile(r"^[ \t]*((?:least_conn|ip_hash|random|hash)\b[^;\n]*);$", re.MULTILINE)
_NAME = re.compile(r"^[ \t]*upstream ([a-z][a-z0-9_]*) \{$", re.MULTILINE)
_ZONE = re.compile(r"^[ \t]*zone (\S+) ([0-9]+)k;$", re.MULTILINE)
_KEEPALIVE = re.compile(r"^[ \t]*keepalive ([0-9]+);$", re.MULTILINE)
_NUMBER = re.compile(r" (weight|max_conns|max_fails)=([0-9]+)(?!\S)")
_FAIL_TIMEOUT = re.compile(r" fail_timeout=(\S+)")
_PLACE = re.compile(r"([0-9.]+):([0-9]{1,5})")


class InstanceRef(NamedTuple):
    """Names an instance across the fleet.

    Args:
        host: name of its host.
        name: its name on the host.
    """

    host: str
    name: str

    @property
    def label(self) -> str:
        """`HOST/INSTANCE`, of characters without a meaning to nginx."""
        return re.sub(r"[^A-Za-z0-9_./-]", "_", f"{self.host}/{self.name}")

    @classmethod
    def of(cls, text: str) -> "InstanceRef":
        """The instance of a label.

        Args:
            text: `HOST/INSTANCE`.
        """
        host, _, name = text.rpartition("/")
        return cls(host, name)


@dataclass(frozen=True)
class Drained:
    """An operator's wish to keep requests away from an instance.

    Args:
        label: `HOST/INSTANCE`.
        since: time by the operator's machine; without blanks.
        by: operator and machine; without blanks.
        why: one line of printable text; may be empty.
    """

    label: str
    since: str
    by: str
    why: str

    @property
    def comment(self) -> str:
        """The comment in the upstream."""
        return f"# drained {self.label} since {self.since} by {self.by}: {self.why}".rstrip()


@dataclass(frozen=True)
class Member:
    """An instance as the upstream lists it.

    Args:
        address: an IPv4 address.
        port: TCP port.
        down: whether nginx sends the instance nothing.
        drained: the operator's drain; None without a drain. A drained instance is rendered as down.
        label: `HOST/INSTANCE`.
        weight: its share of the requests.
        max_conns: greatest number of requests at once; 0 for no limit.
    """

    address: str
    port: int
    down: bool = False
    drained: Drained | None = None
    label: str = ""
    weight: int = 1
    max_conns: int = 0

    @property
    def at(self) -> str:
        """`ADDRESS:PORT`."""
        return f"{self.address}:{self.port}"

    def moved(self, at: str) -> "Member":
        """The member at another place.

        Args:
            at: `ADDRESS:PORT`. Any other text leaves the member's place; an unreachable address, such as 0.0.0.0,
                leaves the member's address.
        """
        place = _PLACE.fullmatch(at)
        if place is None:
            return self
        reachable = is_ipv4(place[1]) and place[1] != ANY
        return dataclasses.replace(self, address=place[1] if reachable else self.address, port=int(place[2]))


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """An upstream.

    Args:
        name: name of the upstream in nginx's other files.
        method: the balancing method as nginx's directive, or empty for round robin.
        max_fails: failures within `fail_timeout` after which nginx leaves a member alone for as long.
        fail_timeout: duration in nginx's notation.
        keepalive: idle connections that each worker keeps.
        zone: KiB of the shared memory in which the workers count; see `zone_for`.
        members: the instances, in the order of their lines.
    """

    name: str
    method: str
    max_fails: int
    fail_timeout: str
    keepalive: int
    zone: int
    members: tuple[Member, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Upstream | None":
        """Parse a text; None where provision did not write the text.

        Lines that provision does not write are skipped: comments, directives, parameters, and servers; see `strangers`.
        A number that no line has is nginx's own default.
        """
        name, zone, keepalive, method = (pattern.search(text) for pattern in (_NAME, _ZONE, _KEEPALIVE, _METHOD))
        if name is None or zone is None or zone[1] != name[1] or keepalive is None:
            return None
        parameters = next((match[3] for match in _MEMBER.finditer(text)), "")
        fail_timeout = _FAIL_TIMEOUT.search(parameters)
        return cls(
            name=name[1],
            method=method[1] if method else "",
            max_fails=_numbers(parameters).get("max_fails", 1),
            fail_timeout=fail_timeout[1] if fail_timeout else "10s",
            keepalive=int(keepalive[1]),
            zone=int(zone[2]),
            members=tuple(members(text).values()),
        )

    @property
    def text(self) -> str:
        """The text of `upstream.conf`."""
        return render(TEMPLATE, upstream=self, named=self._named()).decode()

    def updated(
        self,
        down: Collection[str] = (),
        up: Mapping[str, str] = MappingProxyType({}),
        drain: Mapping[str, Drained] = MappingProxyType({}),
        undrain: Collection[str] = (),
    ) -> "Upstream":
        """The upstream with other marks, and nothing else changed. Unlisted labels are skipped.

        Args:
            down: labels of instances that get no more requests.
            up: label -> `ADDRESS:PORT`, of instances that get requests again, unless drained; see
                `Member.moved`.
            drain: labels that an operator takes out, each with its drain.
            undrain: labels that an operator gives back.
        """
        out, back = {*down, *drain}, {*up, *undrain}

        def update(member: Member) -> Member:
            name = member.label
            drained = None if name in undrain else drain.get(name, member.drained)
            is_down = drained is not None or name in out or (member.down and name not in back)
            return dataclasses.replace(member.moved(up.get(name, "")), down=is_down, drained=drained)

        return dataclasses.replace(self, members=tuple(update(member) for member in self.members))

    def _named(self) -> list[Member]:
        """The members with a place of their own: nginx refuses a map with two equal keys."""
        first = {member.at: member for member in reversed(self.members) if member.address != NOWHERE}
        return [member for member in self.members if first.get(member.at) is member]


def label(host: str, instance: str) -> str:
    """`HOST/INSTANCE`, of characters without a meaning to nginx."""
    return InstanceRef(host, instance).label


def text_of(have: State) -> str:
    """The text of the upstream in a configuration's state; empty without an upstream."""
    content = (have or {}).get("files", {}).get(FILE)
    return content.data.decode(errors="replace") if isinstance(content, Content) else ""


def members(text: str) -> dict[str, Member]:
    """Label -> member, of any text: also of a text that `Upstream.parse` rejects."""
    drains = {words[0]: Drained(*words) for words in _DRAINED.findall(text)}
    lines = (match.groups() for match in _MEMBER.finditer(text))
    return {
        name: _member(at, port, parameters, name, drains.get(name))
        for at, port, parameters, name in lines
        if is_ipv4(at)
    }


def drained(text: str) -> dict[str, Drained]:
    """Label -> its drain."""
    return {name: member.drained for name, member in members(text).items() if member.drained}


def strangers(text: str) -> list[str]:
    """The servers of a text that are no members, by their written address."""
    known = {NOBODY, *(member.at for member in members(text).values())}
    return [place for place in _SERVER.findall(text) if place not in known]


def zone_for(listed: Collection[Member]) -> int:
    """KiB of shared memory for a number of members: measured with nginx 1.26.3 and 1.30.4, with room to spare."""
    return 64 + len(listed)


def serves(listed: Iterable[Member]) -> bool:
    """Whether any of these members gets requests."""
    return any(not member.down for member in listed)


def is_ipv4(text: str) -> bool:
    """Whether a text is an IPv4 address; instances listen on no other kind."""
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _member(address: str, port: str, parameters: str, name: str, drain: Drained | None) -> Member:
    numbers = _numbers(parameters)
    down = "down" in parameters.split()
    return Member(address, int(port), down, drain, name, numbers.get("weight", 1), numbers.get("max_conns", 0))


def _numbers(parameters: str) -> dict[str, int]:
    return {name: int(number) for name, number in _NUMBER.findall(parameters)}
