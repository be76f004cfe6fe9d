"""A balancer's upstream as data: its settings and its members, each with its place, its weight and its marks.

This module alone reads and writes the text of `upstream.conf`. The text has a block `upstream` for each replica set. An
instance has a line `server ADDRESS:PORT ...; # HOST/INSTANCE` in the block of each of its replica sets. A drained
instance has a comment of its own before the line, so that the balancer itself remembers the drain, whatever becomes of
the instance's host.
"""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple

from provision.render import render
from provision.steps.base import State
from provision.steps.nginx import traffic_shares
from provision.steps.nginx.ipv4 import is_ipv4
from provision.steps.nginx.replica_sets import ReplicaSet, share
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
_MODEL = re.compile(r"^[ \t]*# model: ([a-z0-9_./:-]{1,500})$", re.MULTILINE)
_POOL = re.compile(r"^[ \t]*# pool: ([a-z][a-z0-9_-]{0,62})$", re.MULTILINE)
_SITE = re.compile(r"^[ \t]*# site: ([a-z][a-z0-9_-]{0,62})$", re.MULTILINE)
_SHARE = re.compile(r"^[ \t]*# share: ([0-9]{1,3}) ([a-z0-9_./:-]{1,500})$", re.MULTILINE)
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
        weight: its own share of the requests, where the versions of a public name have none.
        max_conns: greatest number of requests at once, in all replica sets together; 0 for no limit.
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


class Block(NamedTuple):
    """A block `upstream` of the text.

    Args:
        name: name of the block in nginx's other files.
        replicas: the replica set, with its models, shares, pool and site.
        members: the instances, each with its share of the requests at once, and its weight in this block.
        method: the balancing method as nginx's directive, or empty for round robin.
    """

    name: str
    replicas: ReplicaSet
    members: tuple[Member, ...]
    method: str = ""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """The instances behind a balancer, in a block of nginx for each replica set.

    Args:
        name: name of the first block; the second is `NAME_2`.
        method: the balancing method as nginx's directive, or empty for round robin.
        max_fails: failures within `fail_timeout` after which nginx leaves a member alone for as long.
        fail_timeout: duration in nginx's notation.
        keepalive: idle connections that each worker keeps.
        zone: KiB of the shared memory in which the workers count; see `zone_for`.
        members: the instances, in the order of their lines.
        sets: the replica sets of the instances; empty for a single block of unknown models, as earlier versions wrote
            the text.
    """

    name: str
    method: str
    max_fails: int
    fail_timeout: str
    keepalive: int
    zone: int
    members: tuple[Member, ...] = ()
    sets: tuple[ReplicaSet, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Upstream | None":
        """Parse a text; None where provision did not write the text.

        Lines that provision does not write are skipped: comments, directives, parameters, and servers; see `strangers`.
        A number that no line has is nginx's own default. Blocks that disagree were edited: None.
        """
        pieces = _pieces(text)
        known = members(text)
        names = [_first(_NAME, piece) for piece in pieces]
        plain = [piece for piece in pieces if not _is_divided(piece)] or pieces
        listing = [piece for piece in (*plain, *pieces) if members(piece) or not known]
        settings = next((_settings(piece) for piece in listing), None)
        if settings is None or names != [block_name(names[0], place) for place in range(len(names))]:
            return None
        settings["method"] = _first(_METHOD, plain[0])
        if _disagree(pieces, settings, known):
            return None
        return cls(name=names[0], **settings, members=tuple(known.values()), sets=sets(text))

    @property
    def text(self) -> str:
        """The text of `upstream.conf`."""
        return render(TEMPLATE, upstream=self, named=self._named()).decode()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of the text. Each has its share of the members' requests at once."""
        if not self.sets:
            return (Block(self.name, ReplicaSet((), ()), self.members, self.method),)
        known = {member.label: member for member in self.members}
        places: dict[str, int] = {}
        counts = Counter(label for replicas in self.sets for label in replicas.labels)

        def shared(label: str, weight: int) -> Member:
            place = places[label] = places.get(label, -1) + 1
            limit = share(known[label].max_conns, place, counts[label])
            return dataclasses.replace(known[label], max_conns=limit, weight=weight)

        def block(number: int, replicas: ReplicaSet) -> Block:
            weights = replicas.weights or [known[name].weight for name in replicas.labels]
            listed = tuple(shared(name, weight) for name, weight in zip(replicas.labels, weights, strict=True))
            method = traffic_shares.method(self.method) if len(replicas.shares) > 1 else self.method
            return Block(block_name(self.name, number), replicas, listed, method)

        return tuple(block(number, replicas) for number, replicas in enumerate(self.sets))

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
        """The members with a place of their own, in the order of their lines: nginx refuses a map with two equal
        keys."""
        lines = {member.label: member for block in self.blocks for member in block.members}
        first = {member.at: member for member in reversed(lines.values()) if member.address != NOWHERE}
        return [member for member in lines.values() if first.get(member.at) is member]


def label(host: str, instance: str) -> str:
    """`HOST/INSTANCE`, of characters without a meaning to nginx."""
    return InstanceRef(host, instance).label


def text_of(have: State) -> str:
    """The text of the upstream in a configuration's state; empty without an upstream."""
    content = (have or {}).get("files", {}).get(FILE)
    return content.data.decode(errors="replace") if isinstance(content, Content) else ""


def block_name(name: str, place: int) -> str:
    """The name of a block.

    Args:
        name: of the first block.
        place: of the block, from 0 on.
    """
    return f"{name}_{place + 1}" if place else name


def members(text: str) -> dict[str, Member]:
    """Label -> member, of any text: also of a text that `Upstream.parse` rejects.

    A member of several blocks is down if any of its lines is down, and has the limits of all its lines together. Its
    weight is that of a block without shares; 1 without such a block.
    """
    drains = {words[0]: Drained(*words) for words in _DRAINED.findall(text)}
    rest = functools.reduce(lambda left, piece: left.replace(piece, ""), filter(_is_divided, _pieces(text)), text)
    weights = {line.label: line.weight for line in _lines(rest)}
    found: dict[str, Member] = {}
    for line in _lines(text):
        member = dataclasses.replace(line, drained=drains.get(line.label), weight=weights.get(line.label, 1))
        if other := found.get(line.label):
            together = other.max_conns + line.max_conns
            member = dataclasses.replace(member, down=line.down or other.down, max_conns=together)
        found[line.label] = member
    return found


def sets(text: str) -> tuple[ReplicaSet, ...]:
    """The replica sets of any text; empty for a single block of unknown models."""
    found = tuple(_replicas(piece) for piece in _pieces(text))
    return () if len(found) == 1 and not found[0].models else found


def _replicas(piece: str) -> ReplicaSet:
    """The replica set of a block. A label that comes twice counts once."""
    lines = {line.label: line.weight for line in _lines(piece)}
    shares = tuple((version, int(percent)) for percent, version in _SHARE.findall(piece))
    weights = tuple(lines.values()) if _is_divided(piece) else ()
    pool, site = _first(_POOL, piece), _first(_SITE, piece)
    return ReplicaSet(tuple(_MODEL.findall(piece)), tuple(lines), shares, weights, pool, site)


def _is_divided(piece: str) -> bool:
    """Whether the weights of a block are the shares of several versions."""
    return len(_SHARE.findall(piece)) > 1


def _lines(text: str) -> Iterator[Member]:
    """The members by the lines of a text, without drains."""
    for at, port, parameters, name in (match.groups() for match in _MEMBER.finditer(text)):
        if is_ipv4(at):
            yield _member(at, port, parameters, name)


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


def _pieces(text: str) -> list[str]:
    """The text of each block, from its first line to the next block."""
    starts = [*(match.start() for match in _NAME.finditer(text)), len(text)]
    return [text[start:end] for start, end in pairwise(starts)]


def _first(pattern: re.Pattern[str], piece: str) -> str:
    found = pattern.search(piece)
    return found[1] if found else ""


def _settings(piece: str) -> dict[str, Any] | None:
    """The settings of a block; None where provision did not write the block."""
    zone, keepalive = (pattern.search(piece) for pattern in (_ZONE, _KEEPALIVE))
    if zone is None or zone[1] != _first(_NAME, piece) or keepalive is None:
        return None
    parameters = next((match[3] for match in _MEMBER.finditer(piece)), "")
    fail_timeout = _FAIL_TIMEOUT.search(parameters)
    return {
        "method": _first(_METHOD, piece),
        "max_fails": _numbers(parameters).get("max_fails", 1),
        "fail_timeout": fail_timeout[1] if fail_timeout else "10s",
        "keepalive": int(keepalive[1]),
        "zone": int(zone[2]),
    }


def _disagree(pieces: Sequence[str], settings: Mapping[str, Any], known: Mapping[str, Member]) -> bool:
    """Whether blocks differ, or a member in its blocks apart from the requests at once and the weights of versions."""
    for piece in pieces:
        own, listed, divided = _settings(piece), members(piece), _is_divided(piece)
        wanted = {**settings, "method": traffic_shares.method(settings["method"])} if divided else settings
        of_members = {} if listed else {name: settings[name] for name in ("max_fails", "fail_timeout")}
        if own is None or {**own, **of_members} != wanted:
            return True
        for name, line in listed.items():
            same = dataclasses.replace(known[name], max_conns=line.max_conns)
            if (dataclasses.replace(same, weight=line.weight) if divided else same) != line:
                return True
    return False


def _member(address: str, port: str, parameters: str, name: str) -> Member:
    numbers = _numbers(parameters)
    down = "down" in parameters.split()
    return Member(address, int(port), down, None, name, numbers.get("weight", 1), numbers.get("max_conns", 0))


def _numbers(parameters: str) -> dict[str, int]:
    return {name: int(number) for name, number in _NUMBER.findall(parameters)}
