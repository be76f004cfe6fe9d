"""Files and directories, and the finder of files that carry our mark."""

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Command, Put, Script, run, sh
from provision.steps.base import Answer, Check, Fact, Owned, RefusalError, State, Step
from provision.steps.facts import HostFacts, live_facts
from provision.steps.system import file_scan
from provision.steps.system.file_scan import Content, FileEntry
from provision.steps.wording import Vocabulary, Words, text_diff

STORE = "/var/lib/provision/store"

KEEP = Script(
    "file/keep",
    f"""
umask 077
[ -f "$1" ] || exit 0
sum=$(sha256sum <"$1" | cut -c1-64)
mkdir -p {STORE}
[ ! -f {STORE}/"$sum" ] || exit 0
trap 'rm -f -- {STORE}/"$sum.new"' EXIT
cp -- "$1" {STORE}/"$sum.new"
mv -f -- {STORE}/"$sum.new" {STORE}/"$sum"
""",
)
RESTORE = Script(
    "file/restore",
    f"""
[ -f {STORE}/"$2" ] || {{ echo "the bytes of $1 with sha256 $2 are not kept on this host" >&2; exit 1; }}
trap 'rm -f -- "$1.provision-new"' EXIT
install -m "$3" -o "${{4%%:*}}" -g "${{4#*:}}" -- {STORE}/"$2" "$1.provision-new"
mv -fT -- "$1.provision-new" "$1"
""",
)
PARENT = Script("file/parent", '[ -d "$1" ] || install -d -m 0755 -- "$1"')
# The last file of a folder of ours takes the empty folders above with it.
REMOVE = Script(
    "file/remove",
    """
rm -f -- "$1"
dir=$(dirname -- "$1")
case $dir/ in
  /etc/provision/*|/opt/provision/*|/etc/systemd/system/*.d/) rmdir -p --ignore-fail-on-non-empty -- "$dir" || : ;;
esac
""",
)


FILE_WORDS: Vocabulary = {
    "kind": Words("another kind of file", "kind"),
    "sha256": Words("other text"),
    "mode": Words("other mode", "mode"),
    "owner": Words("other owner", "owner"),
}


@dataclass(frozen=True, kw_only=True)
class File(Step):
    """A file with exactly these bytes. Its directory is made where it is missing.

    Args:
        path: absolute path.
        content: the bytes, or a pure function from the host facts to the bytes.
        mode: permission bits. A file that some users may not read is never shown: not in a diff, not to the controller.
        owner: user and group.
        after: ids of steps that change the file behind our back.
        kind: the first half of the id.
    """

    words: ClassVar[Vocabulary] = FILE_WORDS

    path: str
    content: bytes | Callable[[HostFacts], bytes] = field(repr=False)
    mode: int = 0o644
    owner: str = "root:root"
    after: tuple[str, ...] = ()
    kind: str = "file"

    @property
    def id(self) -> str:
        """`file:PATH`."""
        return f"{self.kind}:{self.path}"

    def fact(self) -> Fact:
        """Reads the listing."""
        return Fact(file_scan.covering(self.path), lambda answer: file_state(file_scan.parse(answer).get(self.path)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The bytes for this host. Refuses to replace a directory."""
        if have is not None and have["kind"] not in ("file", "link"):
            raise RefusalError(f"{self.path} is a {have['kind']}, not a file: provision does not replace it")
        content = self.content(facts) if callable(self.content) else self.content
        return {"kind": "file", "sha256": Content(content), "mode": f"{self.mode:04o}", "owner": self.owner}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Keeps the old bytes by their hash, then writes or removes."""
        return change_file(self.path, have, want)

    def diff(self, have: State, want: State) -> Sequence[str]:
        """A unified diff where every user of the host may read the file; else a line instead of the text."""
        if self.mode & 0o004:
            return diff_file(self.path, have, want)
        changed = [*Step.diff(self, have, want)] if have and want else []
        other = (have or {}).get("sha256") != (want or {}).get("sha256")
        return [*changed, *(["its text is not shown: it may hold secrets"] if other else [])]

    def check(self, live: Any) -> Iterator[Check]:
        """The file has these bytes, mode and owner."""
        yield from check_file(live, self)


def file_state(entry: FileEntry | None) -> State:
    """The state of one entry of the listing."""
    if entry is None:
        return None
    if entry.kind == "link":
        return {"kind": "link", "target": entry.target}
    common = {"kind": entry.kind, "mode": entry.mode, "owner": entry.owner}
    return {**common, "sha256": entry.sha256} if entry.kind == "file" else common


def change_file(path: str, have: State, want: State) -> list[Command]:
    """Commands from any state of a file to any other.

    Args:
        path: the file.
        have: the state found.
        want: the state wanted; bytes that we do not have come from the host's store.
    """
    changed = have is not None and (want is None or have.get("sha256") != want.get("sha256"))
    commands: list[Command] = [sh(KEEP, path, title=f"keep {path}")] if changed else []
    parent = path.rsplit("/", 1)[0] or "/"
    if want is None:
        return [*commands, sh(REMOVE, path, title=f"remove {path}")]
    if have is None:
        commands.append(sh(PARENT, parent, title=f"have {parent}"))
    return [*commands, _write(path, want)]


def _write(path: str, want: Mapping[str, Any]) -> Command:
    if want["kind"] == "link":
        return run("ln", "-sfn", "--", want["target"], path)
    sha256, mode, owner = want["sha256"], want["mode"], want["owner"]
    if isinstance(sha256, Content):
        return Put(path, sha256.data, int(mode, 8), owner)
    return sh(RESTORE, path, sha256, mode, owner, title=f"restore {path} (sha256 {sha256[:12]})")


def diff_file(path: str, have: State, want: State) -> list[str]:
    """The change, as a unified diff where both contents are known, and mode and owner."""
    keys = [key for key in ("kind", "mode", "owner") if have and want and have.get(key) != want.get(key)]
    changed = [f"{key}: {(have or {}).get(key)} -> {(want or {}).get(key)}" for key in keys]
    old, new = ((state or {}).get("sha256", "") for state in (have, want))
    if any(sha256 and not isinstance(sha256, Content) for sha256 in (old, new)):
        return [*changed, f"sha256: {old or 'nothing'} -> {new or 'nothing'}"]
    before, after = (text.data.decode(errors="replace") if text else "" for text in (old, new))
    return [*changed, *text_diff(before, after, path)]


def check_file(live: Any, step: File) -> Iterator[Check]:
    """The proofs of a file, by one command."""
    result = live.run("stat -c '%%a %%U:%%G' -- %s && sha256sum <%s", step.path, step.path)
    lines = result.stdout.splitlines() if result.rc == 0 else ["absent", "absent"]
    yield Check("mode and owner", lines[0], f"{step.mode:o} {step.owner}")
    try:
        content = step.content(live_facts(live)) if callable(step.content) else step.content
    except (RefusalError, ValueError) as error:
        yield Check("bytes for this host", str(error), "known")
        return
    yield Check("sha256", lines[1].split()[0], str(Content(content)))


@dataclass(frozen=True, kw_only=True)
class Directory(Step):
    """A directory.

    Args:
        path: absolute path.
        mode: permission bits.
        owner: user and group.
        foreign: whether an existing directory is not ours, and keeps its mode and owner.
        after: ids of steps that change it behind our back: an owner has a name only where the user exists.
    """

    words: ClassVar[Vocabulary] = FILE_WORDS

    path: str
    mode: int = 0o755
    owner: str = "root:root"
    foreign: bool = False
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`directory:PATH`."""
        return f"directory:{self.path}"

    def fact(self) -> Fact:
        """Reads the directory itself, without its content."""
        command = file_scan.covering(self.path, depth=0)
        return Fact(command, lambda answer: file_state(file_scan.parse(answer).get(self.path)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The directory. Refuses to replace a file or a link."""
        if have is not None and have["kind"] != "directory":
            raise RefusalError(f"{self.path} is a {have['kind']}, not a directory: provision does not replace it")
        if self.foreign and have is not None:
            return {"kind": "directory"}
        return {"kind": "directory", "mode": f"{self.mode:04o}", "owner": self.owner}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Makes the directory, or removes it if empty."""
        if want is None:
            return [run("rmdir", "--", self.path)]
        if "owner" not in want:
            return [run("install", "-d", "--", self.path)]
        user, _, group = want["owner"].partition(":")
        return [run("install", "-d", "-m", want["mode"], "-o", user, "-g", group, "--", self.path)]

    def irrevocable(self, before: State, after: State) -> str:
        """A directory that the run made stays: its present content is not ours to delete."""
        return "" if before else "the directory stays, with its content"

    def check(self, live: Any) -> Iterator[Check]:
        """The path is a directory, with the declared mode and owner if it is ours."""
        words = live.run("stat -c '%%F %%a %%U:%%G' -- %s", self.path).stdout.strip() or "absent"
        if self.foreign:
            yield Check("is a directory", words.partition(" ")[0], "directory")
        else:
            yield Check("mode and owner", words, f"directory {self.mode:o} {self.owner}")


@dataclass(frozen=True, kw_only=True)
class OwnedFiles(Owned):
    """Finds files with our mark, by patterns of their paths.

    Args:
        globs: patterns below `file_scan.ROOTS`, in fnmatch's form (`*` crosses slashes).
        kind: the first half of the ids.
    """

    globs: tuple[str, ...]
    kind: str = "file"

    def fact(self) -> Fact:
        """Reads the shared listing."""
        return Fact(file_scan.command(), self._parse)

    def step(self, step_id: str) -> Step:
        """The file of that path, to be removed."""
        return File(path=step_id.partition(":")[2], content=b"", kind=self.kind)

    def _parse(self, answer: Answer) -> State:
        files = file_scan.parse(answer)
        ours = [path for path in files if any(fnmatch.fnmatchcase(path, glob) for glob in self.globs)]
        return {f"{self.kind}:{path}": file_state(files[path]) for path in ours if files[path].kind in ("file", "link")}
