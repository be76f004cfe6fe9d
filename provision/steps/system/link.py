"""Our symbolic links: swapped by rename, so that each link always leads somewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Script, run, sh
from provision.steps.base import Answer, Check, Fact, Owned, RefusalError, State, Step
from provision.steps.facts import HostFacts
from provision.steps.system import file_scan
from provision.steps.system.file import file_state
from provision.steps.wording import Vocabulary, Words

SWAP = Script(
    "link/swap",
    """
[ -e "$2" ] || { echo "$2, where $1 is to lead, does not exist" >&2; exit 1; }
rm -f -- "$1.provision-new"
ln -s -- "$2" "$1.provision-new"
mv -fT -- "$1.provision-new" "$1"
""",
)


@dataclass(frozen=True, kw_only=True)
class Link(Step):
    """A symbolic link.

    Args:
        path: absolute path of the link; its directory must exist.
        target: target of the link; must exist before the link is made.
        cost: the cost of a switch to another target, in the operator's terms.
    """

    words: ClassVar[Vocabulary] = {
        "kind": Words("no link"),
        "target": Words("leads elsewhere", "leads to"),
    }

    path: str
    target: str
    cost: str = ""

    @property
    def id(self) -> str:
        """`link:PATH`."""
        return f"link:{self.path}"

    def fact(self) -> Fact:
        """Reads the link itself."""
        command = file_scan.covering(self.path, depth=0)
        return Fact(command, lambda answer: file_state(file_scan.parse(answer).get(self.path)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The link. Refuses to replace a file or a directory."""
        if have is not None and have["kind"] != "link":
            raise RefusalError(f"{self.path} is a {have['kind']}, not a link: provision does not replace it")
        return {"kind": "link", "target": self.target}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Swaps or removes the link."""
        if want is None:
            return [run("rm", "-f", "--", self.path)]
        return [sh(SWAP, self.path, want["target"], title=f"link {self.path} to {want['target']}")]

    def impact(self, have: State, want: State) -> str:
        """The cost of a switch from one target to another."""
        return self.cost if have is not None and want is not None else ""

    def check(self, live: Any) -> Iterator[Check]:
        """The link leads to its target, and the target exists."""
        yield Check("leads to", live.run("readlink -e -- %s", self.path).stdout.strip() or "nowhere", self.target)


@dataclass(frozen=True, kw_only=True)
class OwnedLinks(Owned):
    """Finds our links by their paths.

    Args:
        paths: every path at which a role may have put a link.
    """

    paths: tuple[str, ...]

    def fact(self) -> Fact:
        """Reads the paths themselves."""
        return Fact(file_scan.covering(*self.paths, depth=0), self._parse)

    def step(self, step_id: str) -> Step:
        """The link, to be removed."""
        return Link(path=step_id.partition(":")[2], target="")

    def _parse(self, answer: Answer) -> State:
        files = file_scan.parse(answer)
        ours = {path: files[path] for path in self.paths if path in files}
        return {f"link:{path}": file_state(entry) for path, entry in ours.items() if entry.kind == "link"}
