"""The text of a balancer's upstream: who is in it, who is marked `down`, and who was drained by an operator.

Each instance has one line `server ADDRESS:PORT ...; # HOST/INSTANCE`. One that was drained has a comment of its own
before that line, so that the balancer itself remembers it, whatever becomes of the instance's host.
"""

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from provision.steps.base import State
from provision.steps.system.file_scan import Content

FILE = "upstream.conf"
ANY = "0.0.0.0"  # noqa: S104 - compared, not bound
_LINE = re.compile(r"^\s*server (\S+):(\d+) (?:[^;#]*?)(down)?; # (\S+)$", re.MULTILINE)
_NAMED = re.compile(r'^\s*"(\S+)" "(\S+)";$')  # of the map that tells who answered
_NOBODY = re.compile(r"^\s*server 127\.0\.0\.1:1 down;")  # stands where no instance is declared
_AT = re.compile(r"([0-9.]+):([0-9]{1,5})")
_DRAINED = re.compile(r"^\s*# drained (\S+) since (\S+) by (\S+): ?(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Member:
    """One line of an upstream.

    Args:
        address: an IPv4 address.
        port: TCP port.
        down: whether nothing is sent to it.
        drained: whether that is an operator's wish.
    """

    address: str
    port: int
    down: bool
    drained: bool = False

    @property
    def at(self) -> str:
        """`ADDRESS:PORT`."""
        return f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Place:
    """Where an instance that gets requests again has proved itself.

    Args:
        at: `ADDRESS:PORT`, by its host's Docker; empty, or the address 0.0.0.0, for the one in the upstream.
        before: label of the line that becomes its own: another one where it takes the place of what is gone.
    """

    at: str
    before: str


@dataclass(frozen=True)
class Drained:
    """An instance that an operator keeps out.

    Args:
        label: `HOST/INSTANCE`.
        since: when, by the operator's machine; no blank in it.
        by: operator and machine; no blank in it.
        why: one line of printable text; may be empty.
    """

    label: str
    since: str
    by: str
    why: str

    @property
    def comment(self) -> str:
        """What stands in the upstream."""
        return f"# drained {self.label} since {self.since} by {self.by}: {self.why}".rstrip()


def label(host: str, instance: str) -> str:
    """`HOST/INSTANCE`, of characters that mean nothing to nginx."""
    return re.sub(r"[^A-Za-z0-9_./-]", "_", f"{host}/{instance}")


def text_of(have: State) -> str:
    """The upstream in a configuration's state; empty where there is none."""
    content = (have or {}).get("files", {}).get(FILE)
    return content.data.decode(errors="replace") if isinstance(content, Content) else ""


def members(text: str) -> dict[str, Member]:
    """Label -> line."""
    out = drained(text)
    found = ((name, Member(at, int(port), bool(down), name in out)) for at, port, down, name in _LINE.findall(text))
    return {name: member for name, member in found if is_ipv4(member.address)}


def drained(text: str) -> dict[str, Drained]:
    """Label -> who was drained."""
    return {words[0]: Drained(*words) for words in _DRAINED.findall(text)}


def is_ipv4(text: str) -> bool:
    """Whether it is an IPv4 address; instances listen on no other."""
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def marked(
    text: str,
    down: Collection[str] = (),
    up: Mapping[str, Place] = MappingProxyType({}),
    drain: Mapping[str, Drained] = MappingProxyType({}),
    undrain: Collection[str] = (),
) -> str:
    """The upstream with other marks, and nothing else changed.

    Args:
        text: the upstream.
        down: labels that get no more requests.
        up: label -> place, of those that get requests again, unless they are drained.
        drain: labels that an operator takes out, with what is said of it.
        undrain: labels that an operator gives back.
    """
    kept = {name: one for name, one in {**drained(text), **drain}.items() if name not in undrain}
    lines: Iterable[str] = (line for line in text.split("\n") if not _DRAINED.match(line))
    for name, place in up.items():
        lines = _moved(list(lines), name, place)
    return "\n".join(new for line in lines for new in _marked(line, {*down, *drain}, {*up, *undrain}, kept))


def placed(text: str, now: str, labels: Collection[str]) -> str:
    """An upstream of then with some instances where they are now: without those that are not, with those that are new.

    Args:
        text: the upstream of then.
        now: the present one.
        labels: the instances; weights and limits stay those of then.
    """
    then, present = members(text), members(now)
    new = (present.keys() & set(labels)) - then.keys()
    lost = (then.keys() & set(labels)) - present.keys()
    if not new and not then.keys() - lost:  # nginx refuses an upstream without any
        lost = set()
    lines = [line for line in text.split("\n") if _whose(line) not in lost and not (new and _NOBODY.match(line))]
    for name in sorted(then.keys() & present.keys() & set(labels)):
        if then[name].at != present[name].at:
            lines = list(_moved(lines, name, Place(present[name].at, name)))
    more = [line for line in now.split("\n") if _whose(line) in new]
    named = [line for line in now.split("\n") if _whose(line) in labels]
    return "\n".join(_with(_with(lines, more, _LINE, "keepalive "), named, _NAMED, "}"))


def _whose(line: str) -> str:
    """The instance that a line is about, or nothing."""
    found, named = _LINE.match(line), _NAMED.match(line)
    return found[4] if found else named[2] if named else ""


def _with(lines: Sequence[str], more: Sequence[str], kind: re.Pattern[str], end: str) -> list[str]:
    """The lines with those of a kind of others behind their own: before the last line that begins so."""
    last = next((number for number in reversed(range(len(lines))) if lines[number].strip().startswith(end)), len(lines))
    said = {found[1] for found in map(_NAMED.match, lines) if found}  # nginx refuses a map with two equal keys
    added = [line for line in more if (found := kind.match(line)) and not (kind is _NAMED and found[1] in said)]
    return [*lines[:last], *added, *lines[last:]]


def _moved(lines: Sequence[str], name: str, place: Place) -> Iterator[str]:
    """The lines with an instance where it has proved itself."""
    own = {found[4]: found for found in map(_LINE.match, lines) if found}
    old = own.get(place.before)
    if old is None or (name != place.before and name in own):
        yield from lines
        return
    said = _AT.fullmatch(place.at)
    address = said[1] if said and is_ipv4(said[1]) and said[1] != ANY else old[1]
    at = f"{address}:{said[2] if said else old[2]}"
    for line in lines:
        found, named = _LINE.match(line), _NAMED.match(line)
        if found and found[4] == place.before:
            yield line.replace(f"{found[1]}:{found[2]} ", f"{at} ", 1).removesuffix(place.before) + name
        elif named and named[1] == f"{old[1]}:{old[2]}" and named[2] == place.before:
            yield line.replace(f'"{named[1]}" "{named[2]}"', f'"{at}" "{name}"')
        elif not (named and named[1] == at):  # nginx refuses a map with two equal keys
            yield line


def _marked(line: str, down: set[str], up: set[str], kept: Mapping[str, Drained]) -> Iterator[str]:
    found = _LINE.match(line)
    if found is None:
        yield line
        return
    name = found[4]
    if name in kept:
        yield f"{line[: len(line) - len(line.lstrip())]}{kept[name].comment}"
    head, _, tail = line.partition(";")
    is_down = name in kept or (bool(found[3]) and name not in up) or name in down
    yield f"{head.removesuffix(' down')}{' down' if is_down else ''};{tail}"
