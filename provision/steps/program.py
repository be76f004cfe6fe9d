"""Programs of provision on PATH: a link in /usr/local/sbin.

A host that has another program of the same name, from a package or made by hand, gets no link, which would hide it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, run, sh
from provision.steps import listing
from provision.steps.base import Answer, Check, Fact, Owned, State, Step
from provision.steps.facts import HostFacts
from provision.steps.link import SWAP

OURS = "/opt/provision/"
FOLDER = "/usr/local/sbin"
ELSEWHERE = ("/usr/local/bin", "/usr/sbin", "/usr/bin")

LINK = '[ -d "${1%/*}" ] || install -d -m 0755 -- "${1%/*}"' + SWAP


@dataclass(frozen=True, kw_only=True)
class Program(Step):
    """A link on PATH to a program of provision.

    Args:
        name: the name.
        target: the program; must exist by then.
    """

    gone: ClassVar[str] = "no longer declared, or the host has another program of that name"

    name: str
    target: str

    @property
    def id(self) -> str:
        """`program:NAME`."""
        return f"program:{self.name}"

    @property
    def path(self) -> str:
        """Where the link is."""
        return f"{FOLDER}/{self.name}"

    def fact(self) -> Fact:
        """Looks for programs of that name."""
        return Fact(listing.covering(*_places(self.name), depth=0), lambda answer: _state(answer, self.name))

    def want(self, facts: HostFacts, have: State) -> State:
        """The link; no link on a host that has another program of that name."""
        if have is None or not have["others"]:
            return {"target": self.target, "others": []}
        return None if have["target"] else have

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Swaps or removes the link; the other program is never touched."""
        if want is not None and want["target"]:
            return [sh(LINK, self.path, want["target"], title=f"link {self.path} to {want['target']}")]
        return [run("rm", "-f", "--", self.path)] if have is not None and have["target"] else []

    def check(self, live: Any) -> Iterator[Check]:
        """PATH has a program of that name: the link, or the host's own program."""
        words = "readlink -- %s || ls -d -- %s %s %s %s"
        found = live.run(words, self.path, *_places(self.name)).stdout.partition("\n")[0]
        yield Check(f"{self.name} is on PATH", found in (self.target, *_places(self.name)), True)


def _places(name: str) -> tuple[str, ...]:
    return tuple(f"{folder}/{name}" for folder in (FOLDER, *ELSEWHERE))


def _state(answer: Answer, name: str) -> State:
    """Our link and other programs of that name; None where there is neither."""
    found = listing.parse(answer)
    there = {path: found[path].target for path in _places(name) if path in found}
    target = there.get(f"{FOLDER}/{name}", "")
    others = [path for path, leads_to in there.items() if not leads_to.startswith(OURS)]
    ours = target if target.startswith(OURS) else ""
    return {"target": ours, "others": others} if ours or others else None


@dataclass(frozen=True, kw_only=True)
class OwnedPrograms(Owned):
    """Finds links to programs of ours.

    Args:
        names: every name that a role may have given one.
    """

    names: tuple[str, ...]

    def fact(self) -> Fact:
        """Looks at the names."""
        paths = [path for name in self.names for path in _places(name)]
        return Fact(listing.covering(*paths, depth=0), self._parse)

    def step(self, step_id: str) -> Step:
        """The link, to be removed."""
        return Program(name=step_id.partition(":")[2], target="")

    def _parse(self, answer: Answer) -> State:
        found: dict[str, Mapping[str, Any] | None] = {f"program:{name}": _state(answer, name) for name in self.names}
        return {step_id: state for step_id, state in found.items() if state is not None and state["target"]}
