"""nginx's configuration as generations: nginx checks a new generation before a link is swapped to it, and the loaded
generation is asked of nginx itself, so that the next run sees a reload that a broken run left undone.

Every generation has an id that depends on the previous id. nginx answers it at `/generation` on the status address.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from provision.command import Command, Put, look, sh
from provision.steps.base import (
    Answer,
    BlockedError,
    Check,
    Fact,
    Owned,
    RefusalError,
    State,
    Step,
    UnreadableError,
)
from provision.steps.facts import HostFacts
from provision.steps.nginx.generation_diff import MARK, USUAL, diff, other_modes
from provision.steps.nginx.generation_scripts import CARRY, COPY, INSTALL, LOAD, PREPARE, READ, REMOVE
from provision.steps.nginx_paths import CONFIG, PID, ROOT, UNIT
from provision.steps.system import file_scan
from provision.steps.system.file_scan import Content
from provision.steps.wording import Vocabulary, Words, changed_entries

GENERATIONS = "/var/lib/provision/nginx"
NEW = f"{GENERATIONS}/.new"
STATUS = "status.conf"
# The loaded generation, the target of the link, and the verdict of `nginx -t` by its exit code.
ASK = """echo "$(curl --noproxy '*' -s --max-time 30 %s)"; readlink -- %s || echo; exec %s -t -q"""
NO_CURL = 77  # exit code of READ
WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound
Files = Mapping[str, bytes | str]
"""Name -> bytes of a file, or their hash where the bytes are on the host alone."""
_CLOSED = re.compile(r"file (0[0-7]{2}[0-3]) root:root")
_ID = re.compile(r"[0-9a-f]{12}")
_PORT = re.compile(r"^\s*listen 127\.0\.0\.1:(\d+);", re.MULTILINE)
_LISTEN = re.compile(rb"^\s*listen (\S+):(\d+)[ ;]", re.MULTILINE)

WORDS: Vocabulary = {
    "kind": Words(""),
    "id": Words("", unless=("files",)),
    "files": Words("other text in {names}"),
    "loaded": Words("", unless=("id",)),
    "touched": Words("changed after nginx read it"),
    "odd": Words("mode or owner of {names}"),
    "exe": Words("another build", "build"),
}
"""What the keys of a configuration are called to an operator, for a journal; a plan shows the text of each file."""


@dataclass(frozen=True, kw_only=True)
class Generation(Step):
    """A set of configuration files that nginx has loaded.

    Args:
        name: the second half of the id.
        files: name -> bytes; nginx reads `nginx.conf`, and `nginx.conf` includes the rest.
        modes: name -> permission bits, of files that are not 0644. The bytes of a file that others may not read, such
            as a file with keys, are in no state, plan or journal: only their hash. All files are root's.
        binary: the nginx that checks the files and, if any nginx runs, must be running.
        status_port: port on the loopback address where nginx names its loaded generation, if the files name no port.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"exe", "loaded"})
    words: ClassVar[Vocabulary] = WORDS

    name: str
    files: Mapping[str, bytes] = field(repr=False)
    binary: str
    status_port: int
    modes: Mapping[str, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`config:NAME`."""
        return f"config:{self.name}"

    def fact(self) -> Fact:
        """Reads the files behind the link, and asks a running nginx for its loaded generation."""
        words = (CONFIG, PID, str(self.status_port), ROOT, UNIT)
        secret = frozenset(name for name, mode in self.modes.items() if not mode & 0o004)
        parser = partial(parse, public=self.names - secret, secret=secret)
        return Fact(look(READ, *words, title="read nginx's configuration"), parser)

    @property
    def names(self) -> frozenset[str]:
        """The names of the files; a subclass may add names."""
        return frozenset(self.files)

    def want(self, facts: HostFacts, have: State) -> State:
        """The declared files; a running nginx is the declared binary and has loaded the files, unchanged since."""
        if have is not None and have["kind"] != "link":
            raise RefusalError(f"{CONFIG} is a {have['kind']}, not a link: provision does not replace it")
        return self.wanted(self.rendered(facts, have), have, self.modes_beside(have))

    def rendered(self, facts: HostFacts, have: State) -> Files:
        """The files for this host; a subclass may add files."""
        return self.files

    def modes_beside(self, have: State) -> Mapping[str, int]:
        """The modes of the files, as `modes`; a subclass may take them from the present files."""
        return self.modes

    def wanted(self, files: Files, have: State, modes: Mapping[str, int]) -> State:
        """The state with these files: the present id where the files are the present files, else the next id."""
        now = have["id"] if have is not None else ""
        if have is None or not _ID.fullmatch(now) or have["files"] != _contents(files, now) or have.get("touched"):
            now = _successor(files, now)
        want = {"kind": "link", "id": now, "files": _contents(files, now), "odd": _odd(modes, files)}
        if have is not None and have["exe"]:
            want |= {"exe": self.binary, "loaded": now, "touched": []}
        return want

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past files with their modes, in the past nginx. Refuses where the bytes are not kept."""
        files, modes = files_of(past), closed(past)
        if not files or not all(isinstance(content, bytes) or name in modes for name, content in files.items()):
            raise RefusalError("the past configuration is not kept on this host any more")
        want = self.wanted(self.marked(files, facts, have), have, modes)
        return {**want, "exe": past["exe"]} if want and want.get("exe") and past["exe"] else want

    def marked(self, files: Files, facts: HostFacts, have: State) -> Files:
        """The past files, with the parts that must not be put back; a subclass may have such parts."""
        return files

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Writes the files aside, has nginx check them, swaps the link, and has a running nginx load them."""
        if want is None:
            return [sh(REMOVE, CONFIG, GENERATIONS, title=f"remove {CONFIG}")]
        same = have is not None and all(have[key] == want[key] for key in ("kind", "id", "files", "odd"))
        previous = "" if have is None or same else have["id"]
        nginx = want.get("exe") or self.binary
        written = [] if same else [*self._written(want), self._install(want["id"], nginx)]
        port = status_port(want) or self.status_port
        return [*written, self._load(want["id"], previous, nginx, port, restart=rebinds(have, want))]

    def _written(self, want: Mapping[str, Any]) -> list[Command]:
        """The files, in the folder where nginx checks them."""
        if not any(isinstance(content, Content) for content in want["files"].values()):
            return [sh(COPY, NEW, f"{GENERATIONS}/{want['id']}", title=f"take generation {want['id']} again")]
        prepare = sh(PREPARE, NEW, title=f"prepare {NEW}")
        modes = closed(want)
        return [prepare, *(_put(name, content, modes) for name, content in want["files"].items())]

    def _install(self, now: str, nginx: str) -> Command:
        title = f"check with nginx -t, then link {CONFIG} to generation {now}"
        return sh(INSTALL, CONFIG, GENERATIONS, now, nginx, PID, title=title)

    @staticmethod
    def _load(now: str, previous: str, nginx: str, port: int, *, restart: bool) -> Command:
        words = (CONFIG, GENERATIONS, now, previous, nginx, PID, str(port), UNIT)
        title = f"{'restart' if restart else 'reload'} nginx if it runs, and wait until it has loaded {now}"
        return sh(LOAD, *words, "restart" if restart else "reload", title=title)

    def impact(self, have: State, want: State) -> str:
        """The effect on open streams."""
        if want is None or have is None or not have["exe"]:
            return ""
        if rebinds(have, want):
            return "restarts nginx (open streams end): it cannot move between all addresses and one while it runs"
        if have["exe"] != want.get("exe", have["exe"]):
            return "replaces the running nginx by the new build (open streams finish on the old one)"
        return "reloads nginx (open streams finish)"

    def why(self, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
        """The differing files; else the difference in the running nginx."""
        changed = [name for name in changed_entries(have["files"], want["files"]) if name != MARK]
        files = [f"other text in {', '.join(changed)}"] if changed else []
        other = other_modes(have, want)
        odd = [f"mode or owner of {', '.join(other)}"] if other else []
        runs, wanted = have["exe"], want.get("exe", have["exe"])
        stale = bool(have.get("touched")) or want.get("loaded", have["loaded"]) != have["loaded"]
        binary = [] if runs == wanted else ["nginx runs another build" if runs else "nginx does not run"]
        late = ["nginx has not loaded it"] if runs and stale and not files else []
        return ", ".join([*files, *odd, *binary, *late]) or "other text"

    def diff(self, have: State, want: State) -> Sequence[str]:
        """A unified diff of every file that others may read; else the part that nginx has not loaded yet."""
        return diff(have, want)

    def check(self, live: Any) -> Iterator[Check]:
        """nginx has loaded the generation behind the link."""
        url = f"http://127.0.0.1:{self.status_port}/generation"
        result = live.run(ASK, url, CONFIG, self.binary)
        loaded, linked = (*result.stdout.splitlines(), "", "")[:2]
        yield Check("nginx has loaded the present configuration", loaded or "no answer", linked.rsplit("/", 1)[-1])
        yield Check("nginx -t", result.rc, 0)


def parse(answer: Answer, public: Collection[str] = (), secret: Collection[str] = ()) -> State:
    """The state of the configuration; None where there is none.

    Args:
        answer: to the look at nginx.
        public: files whose bytes are known, whatever their mode has become.
        secret: files of which only the hash is known, whatever their mode has become. Of any other file the mode tells.
    """
    if answer.exit == NO_CURL:
        raise BlockedError("packages:nginx", answer.complaint)
    head, mark, files = answer.stdout.partition(b"# files\n")
    if answer.exit or not mark:
        raise UnreadableError(answer.complaint if answer.exit else "the answer ends early")
    head, _, stamps = head.partition(b"# noted\n")
    values = dict(line.partition(" ")[::2] for line in head.decode(errors="replace").splitlines())
    if values["kind"] == "absent":
        return None
    entries = {path.rsplit("/", 1)[1]: entry for path, entry in file_scan.parse_bytes(files).items()}
    target = values.get("target", "")
    return {
        "kind": values["kind"],
        "id": target.removeprefix(f"{GENERATIONS}/"),
        "files": {
            name: str(entry.sha256) if name in secret or not (name in public or _is_open(entry)) else entry.sha256
            for name, entry in sorted(entries.items())
            if entry.kind == "file"
        },
        "odd": {name: _mode(entry) for name, entry in entries.items() if _mode(entry) != USUAL},
        "exe": values.get("exe", ""),
        "loaded": values.get("loaded", ""),
        "touched": _touched(stamps) if values.get("exe") else [],
    }


def _touched(stamps: bytes) -> list[str]:
    """The files changed after nginx read them, as sentences."""
    noted, _, now = stamps.decode(errors="replace").partition("# now\n")
    if not noted:
        return ["nginx started or reloaded before its unit noted which files it reads"]
    changed = set(noted.splitlines()) ^ set(now.splitlines())
    paths = {line.partition("/")[2] for line in changed}
    return [f"/{path} has changed since nginx read it" for path in sorted(paths)]


def closed(state: State) -> dict[str, int]:
    """Name -> permission bits, of the files of a configuration that others may not read.

    Args:
        state: the configuration.
    """
    odd: Mapping[str, str] = (state or {}).get("odd") or {}
    modes = {name: _CLOSED.fullmatch(mode) for name, mode in odd.items()}
    return {name: int(mode[1], 8) for name, mode in modes.items() if mode}


def files_of(state: State) -> dict[str, bytes | str]:
    """Name -> bytes of the files of a configuration, or their hash where the bytes are on the host alone.

    Args:
        state: the configuration.
    """
    files: Mapping[str, str] = (state or {}).get("files", {})
    return {
        name: content.data if isinstance(content, Content) else content
        for name, content in files.items()
        if name != MARK
    }


def _put(name: str, content: str, modes: Mapping[str, int]) -> Command:
    """Writes a file into the new generation, of bytes that the host alone has if need be."""
    mode = modes.get(name, 0o644)
    if isinstance(content, Content):
        return Put(f"{NEW}/{name}", content.data, mode)
    title = f"take {name} from a generation on this host (sha256 {content[:12]}, mode {mode:04o})"
    return sh(CARRY, NEW, GENERATIONS, name, content, f"{mode:04o}", title=title)


def _is_open(entry: file_scan.FileEntry) -> bool:
    """Whether others may read a file."""
    return bool(int(entry.mode, 8) & 0o004)


def _odd(modes: Mapping[str, int], files: Files) -> dict[str, str]:
    """The modes as a state has them: without those of files that everybody may read."""
    shown = {name: f"file {mode:04o} root:root" for name, mode in modes.items() if name in files}
    return {name: mode for name, mode in shown.items() if mode != USUAL}


def status_port(have: State) -> int:
    """The port where the nginx of this configuration names its loaded generation; 0 without such a port."""
    content = (have or {}).get("files", {}).get(STATUS)
    match = _PORT.search(content.data.decode(errors="replace")) if isinstance(content, Content) else None
    return int(match[1]) if match else 0


def _mode(entry: file_scan.FileEntry) -> str:
    return f"{entry.kind} {entry.mode} {entry.owner}"


def _contents(files: Files, now: str) -> dict[str, str]:
    mark = f'# The id of this generation, which provision asks for.\nreturn 200 "{now}";\n'.encode()
    return {name: _content(data) for name, data in sorted({**files, MARK: mark}.items())}


def _content(data: bytes | str) -> str:
    return Content(data) if isinstance(data, bytes) else data


def _successor(files: Files, before: str) -> str:
    """An id that no earlier generation has: a generation edited by hand and mended is a new generation."""
    parts = [before, sorted((name, _content(data)) for name, data in files.items())]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def rebinds(have: State, want: State) -> bool:
    """Whether a reload would bind a port both on all addresses and on a single address, which the kernel refuses."""
    if have is None or want is None or not have["exe"]:
        return False
    old, new = _listens(have), _listens(want)
    return any(
        a != b and port_a == port_b and (a in WILDCARDS) != (b in WILDCARDS) for a, port_a in old for b, port_b in new
    )


def _listens(state: Mapping[str, Any]) -> set[tuple[str, int]]:
    texts = [content.data for content in state["files"].values() if isinstance(content, Content)]
    return {(address.decode(), int(port)) for text in texts for address, port in _LISTEN.findall(text)}


@dataclass(frozen=True, kw_only=True)
class OwnedGenerations(Owned):
    """Finds the configuration.

    Args:
        name: the second half of the step's id.
    """

    name: str

    @property
    def finds(self) -> frozenset[str]:
        """The configuration, of which there is only one."""
        return frozenset({f"config:{self.name}"})

    def fact(self) -> Fact:
        """Looks for the link; a removed configuration loses its generations before the link."""
        return Fact(file_scan.command(), self._parse)

    def step(self, step_id: str) -> Step:
        """The configuration, to be removed with all its generations."""
        return Generation(name=self.name, files={}, binary="", status_port=0)

    def former(self, step_id: str, have: State) -> Step | None:
        """The configuration, in the past nginx."""
        step = super().former(step_id, have)
        return replace(step, binary=str(have.get("exe", ""))) if isinstance(step, Generation) and have else step

    def _parse(self, answer: Answer) -> State:
        link = file_scan.parse(answer).get(CONFIG)
        state: dict[str, Any] = {"kind": "link", "id": "", "files": {}, "odd": {}, "exe": "", "loaded": ""}
        return {f"config:{self.name}": state} if link and link.kind == "link" else {}
