"""Programs of provision on PATH: a link in /usr/local/sbin.

A host with another program of the same name, from a package or made by hand, gets no link: our link would hide it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Script, run, sh
from provision.steps.base import Answer, Check, Fact, Owned, State, Step
from provision.steps.facts import OURS, HostFacts
from provision.steps.system import file_scan
from provision.steps.system.link import SWAP
from provision.steps.wording import Vocabulary, Words

FOLDER = "/usr/local/sbin"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
LINK = Script("link/program", '[ -d "${1%/*}" ] || install -d -m 0755 -- "${1%/*}"' + SWAP)


@dataclass(frozen=True, kw_only=True)
class Program(Step):
    """A link on PATH to a program of provision.

    Args:
        name: name of the link.
        target: the program; must exist before the link is made.
    """

    gone: ClassVar[str] = "no longer declared, or the host has another program of that name"
    words: ClassVar[Vocabulary] = {
        "target": Words("leads elsewhere", "leads to"),
    }

    name: str
    target: str

    @property
    def id(self) -> str:
        """`program:NAME`."""
        return f"program:{self.name}"

    @property
    def path(self) -> str:
        """Path of the link."""
        return f"{FOLDER}/{self.name}"

    def fact(self) -> Fact:
        """Looks for the link."""
        return Fact(file_scan.covering(self.path, depth=0), lambda answer: _state(answer, self.path))

    def want(self, facts: HostFacts, have: State) -> State:
        """The link; no link on a host with another program of the same name."""
        return None if self._others(facts) else {"target": self.target}

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past link; no link on a host that has another program of the same name by now."""
        return None if self._others(facts) else past

    def _others(self, facts: HostFacts) -> list[str]:
        return [path for path in facts.programs if path.rpartition("/")[2] == self.name]

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Swaps or removes the link; never touches the other program."""
        if want is None:
            return [run("rm", "-f", "--", self.path)]
        return [sh(LINK, self.path, want["target"], title=f"link {self.path} to {want['target']}")]

    def check(self, live: Any) -> Iterator[Check]:
        """PATH has a program of that name: the link, or the host's own program."""
        path = live.run("PATH=%s; command -v -- %s", PATH, self.name).stdout.strip()
        yield Check(f"{self.name} is on PATH", bool(path), True)


def _state(answer: Answer, path: str) -> State:
    """The target of our link; None where there is no link of ours."""
    entry = file_scan.parse(answer).get(path)
    return {"target": entry.target} if entry is not None and entry.target.startswith(OURS) else None


@dataclass(frozen=True, kw_only=True)
class OwnedPrograms(Owned):
    """Finds links to our programs.

    Args:
        names: every name under which a role may have made a link.
    """

    names: tuple[str, ...]

    def fact(self) -> Fact:
        """Looks at the names."""
        return Fact(file_scan.covering(*self._paths().values(), depth=0), self._parse)

    def step(self, step_id: str) -> Step:
        """The link, to be removed."""
        return Program(name=step_id.partition(":")[2], target="")

    def _paths(self) -> dict[str, str]:
        return {f"program:{name}": f"{FOLDER}/{name}" for name in self.names}

    def _parse(self, answer: Answer) -> State:
        states = {step_id: _state(answer, path) for step_id, path in self._paths().items()}
        return {step_id: state for step_id, state in states.items() if state is not None}
