"""The folders of provision on a host: root runs programs from them, so only root may write to them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps.base import Answer, Check, Fact, State, Step
from provision.steps.facts import HostFacts
from provision.steps.system import file_scan
from provision.steps.wording import Vocabulary, Words

PUBLIC = ("/etc/provision", "/opt/provision")
PRIVATE = ("/var/lib/provision", "/run/provision")

# $1 the rights that chmod takes away; then folders, parents first, so that nobody can swap a child for a link.
CLOSE = Script(
    "folders/close",
    """
mode=$1; shift
for path do
  [ -d "$path" ] && [ ! -L "$path" ] || continue
  chown root:root -- "$path"
  chmod "$mode" -- "$path"
done
""",
)


@dataclass(frozen=True, kw_only=True)
class Folders(Step):
    """The folders of provision belong to root, and only root may write to them.

    The step makes no folder: each step makes its own.
    """

    words: ClassVar[Vocabulary] = {
        "open": Words("open to others: {names}"),
    }

    @property
    def id(self) -> str:
        """`folders:provision`."""
        return "folders:provision"

    def fact(self) -> Fact:
        """Reads the shared listing."""
        return Fact(file_scan.command(), _parse)

    def want(self, facts: HostFacts, have: State) -> State:
        """No folder is open."""
        return {"open": {}}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Gives open folders back to root and takes other users' rights away."""
        paths_open = sorted((have or {}).get("open", {}))
        private = [path for path in paths_open if path in PRIVATE]
        public = [path for path in paths_open if path not in PRIVATE]
        words = (("go-w", public), ("go-rwx", private))
        return [sh(CLOSE, mode, *paths, title=f"close {', '.join(paths)}") for mode, paths in words if paths]

    def irrevocable(self, before: State, after: State) -> str:
        """A rollback opens no folder again."""
        return "folders of provision stay closed to others"

    def diff(self, have: State, want: State) -> Sequence[str]:
        """Each folder, with its mode and owner."""
        folders: Mapping[str, str] = (have or {}).get("open", {})
        return [f"{path}: {was} -> closed to others, root:root" for path, was in sorted(folders.items())]

    def check(self, live: Any) -> Iterator[Check]:
        """The uppermost folders belong to root, and only root may write to them."""
        listing = live.run("stat -c '%%a %%U:%%G %%n' -- %s %s %s %s", *PUBLIC, *PRIVATE).stdout
        lines = (line.split(" ", 2) for line in listing.splitlines())
        opened = [f"{path} {mode} {owner}" for mode, owner, path in lines if _is_open(path, int(mode, 8), owner)]
        yield Check("folders open to others", opened, [])


def _parse(answer: Answer) -> State:
    entries = file_scan.parse(answer).items()
    folders = {path: entry for path, entry in entries if entry.kind == "directory" and _is_ours(path)}
    return {
        "open": {
            path: f"{entry.mode} {entry.owner}"
            for path, entry in folders.items()
            if _is_open(path, int(entry.mode, 8), entry.owner)
        }
    }


def _is_ours(path: str) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in (*PUBLIC, *PRIVATE))


def _is_open(path: str, mode: int, owner: str) -> bool:
    return owner != "root:root" or bool(mode & (0o077 if path in PRIVATE else 0o022))
