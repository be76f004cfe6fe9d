"""nginx's configuration as generations: nginx checks a new generation before a link is swapped to it, and the loaded
generation is asked of nginx itself, so that the next run sees a reload that a broken run left undone.

Every generation has an id that depends on the previous id. nginx answers it at `/generation` on the status address.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    text_diff,
)
from provision.steps.facts import HostFacts
from provision.steps.nginx.build import CONFIG, PID, ROOT, UNIT
from provision.steps.nginx.generation_scripts import COPY, INSTALL, LOAD, PREPARE, READ, REMOVE
from provision.steps.system import file_scan
from provision.steps.system.file_scan import Content
from provision.steps.wording import Vocabulary, Words, changed_entries

GENERATIONS = "/var/lib/provision/nginx"
NEW = f"{GENERATIONS}/.new"
MARK, STATUS = "generation.conf", "status.conf"
# The loaded generation, the target of the link, and the verdict of `nginx -t` by its exit code.
ASK = """echo "$(curl --noproxy '*' -s --max-time 30 %s)"; readlink -- %s || echo; exec %s -t -q"""
NO_CURL = 77  # exit code of READ
WILDCARDS = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound
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
        binary: the nginx that checks the files and, if any nginx runs, must be running.
        status_port: port on the loopback address where nginx names its loaded generation, if the files name no port.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"exe", "loaded"})
    words: ClassVar[Vocabulary] = WORDS

    name: str
    files: Mapping[str, bytes] = field(repr=False)
    binary: str
    status_port: int

    @property
    def id(self) -> str:
        """`config:NAME`."""
        return f"config:{self.name}"

    def fact(self) -> Fact:
        """Reads the files behind the link, and asks a running nginx for its loaded generation."""
        words = (CONFIG, PID, str(self.status_port), ROOT, UNIT)
        return Fact(look(READ, *words, title="read nginx's configuration"), parse)

    def want(self, facts: HostFacts, have: State) -> State:
        """The declared files; a running nginx is the declared binary and has loaded the files, unchanged since."""
        if have is not None and have["kind"] != "link":
            raise RefusalError(f"{CONFIG} is a {have['kind']}, not a link: provision does not replace it")
        return self.wanted(self.rendered(facts, have), have)

    def rendered(self, facts: HostFacts, have: State) -> Mapping[str, bytes]:
        """The files for this host; a subclass may add files."""
        return self.files

    def wanted(self, files: Mapping[str, bytes], have: State) -> State:
        """The state with these files: the present id where the files are the present files, else the next id."""
        now = have["id"] if have is not None else ""
        if have is None or not _ID.fullmatch(now) or have["files"] != _contents(files, now) or have.get("touched"):
            now = _successor(files, now)
        want = {"kind": "link", "id": now, "files": _contents(files, now), "odd": {}}
        if have is not None and have["exe"]:
            want |= {"exe": self.binary, "loaded": now, "touched": []}
        return want

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past files, in the past nginx. Refuses where the bytes are not kept."""
        files = {name: content for name, content in past["files"].items() if name != MARK}
        if not files or not all(isinstance(content, Content) for content in files.values()):
            raise RefusalError("what the configuration was is not kept on this host any more")
        want = self.wanted(self.marked({name: content.data for name, content in files.items()}, facts, have), have)
        return {**want, "exe": past["exe"]} if want and want.get("exe") and past["exe"] else want

    def marked(self, files: Mapping[str, bytes], facts: HostFacts, have: State) -> Mapping[str, bytes]:
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
        if not all(isinstance(content, Content) for content in want["files"].values()):
            return [sh(COPY, NEW, f"{GENERATIONS}/{want['id']}", title=f"take generation {want['id']} again")]
        prepare = sh(PREPARE, NEW, title=f"prepare {NEW}")
        return [prepare, *(Put(f"{NEW}/{name}", content.data) for name, content in want["files"].items())]

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
        odd = [f"mode or owner of {', '.join(have['odd'])}"] if have.get("odd") else []
        runs, wanted = have["exe"], want.get("exe", have["exe"])
        stale = bool(have.get("touched")) or want.get("loaded", have["loaded"]) != have["loaded"]
        binary = [] if runs == wanted else ["nginx runs another build" if runs else "nginx does not run"]
        late = ["nginx has not loaded it"] if runs and stale and not files else []
        return ", ".join([*files, *odd, *binary, *late]) or "other text"

    def diff(self, have: State, want: State) -> Sequence[str]:
        """A unified diff of every file; else the part that nginx has not loaded yet."""
        lines = [line for name in _names(have, want) for line in _file_diff(name, have, want)]
        odd = [f"{CONFIG}/{name}: {mode}" for name, mode in ((have or {}).get("odd") or {}).items()]
        touched = (have or {}).get("touched", []) if want and not lines else []
        return [*lines, *touched, *odd, *_pending(have, want)]

    def check(self, live: Any) -> Iterator[Check]:
        """nginx has loaded the generation behind the link."""
        url = f"http://127.0.0.1:{self.status_port}/generation"
        result = live.run(ASK, url, CONFIG, self.binary)
        loaded, linked = (*result.stdout.splitlines(), "", "")[:2]
        yield Check("nginx has loaded the present configuration", loaded or "no answer", linked.rsplit("/", 1)[-1])
        yield Check("nginx -t", result.rc, 0)


def parse(answer: Answer) -> State:
    """The state of the configuration; None where there is none."""
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
        "files": {name: entry.sha256 for name, entry in sorted(entries.items()) if entry.kind == "file"},
        "odd": {name: _mode(entry) for name, entry in entries.items() if _mode(entry) != "file 0644 root:root"},
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


def status_port(have: State) -> int:
    """The port where the nginx of this configuration names its loaded generation; 0 without such a port."""
    content = (have or {}).get("files", {}).get(STATUS)
    match = _PORT.search(content.data.decode(errors="replace")) if isinstance(content, Content) else None
    return int(match[1]) if match else 0


def _mode(entry: file_scan.Found) -> str:
    return f"{entry.kind} {entry.mode} {entry.owner}"


def _contents(files: Mapping[str, bytes], now: str) -> dict[str, Content]:
    mark = f'# The id of this generation, which provision asks for.\nreturn 200 "{now}";\n'.encode()
    return {name: Content(data) for name, data in sorted({**files, MARK: mark}.items())}


def _successor(files: Mapping[str, bytes], before: str) -> str:
    """An id that no earlier generation has: a generation edited by hand and mended is a new generation."""
    parts = [before, sorted((name, Content(data)) for name, data in files.items())]
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


def _names(*states: State) -> list[str]:
    return sorted({name for state in states if state is not None for name in state["files"]} - {MARK})


def _file_diff(name: str, have: State, want: State) -> list[str]:
    old, new = ((state or {}).get("files", {}).get(name, "") for state in (have, want))
    if old == new:
        return []
    texts = [content.data.decode(errors="replace") if isinstance(content, Content) else "" for content in (old, new)]
    if not old:
        return [f"+ {name} ({texts[1].count(chr(10))} lines)"]
    return text_diff(texts[0], texts[1], f"{CONFIG}/{name}") or [f"{name}: {old} -> {new or 'nothing'}"]


def _pending(have: State, want: State) -> list[str]:
    if have is None or want is None or not have["exe"]:
        return []
    binary = [f"running: {have['exe']} -> {want['exe']}"] if have["exe"] != want.get("exe", have["exe"]) else []
    stale = have["id"] == want["id"] != have["loaded"]
    touched = have["touched"] if have["files"] == want["files"] else []
    return [
        *binary,
        *touched,
        *([f"nginx has loaded {have['loaded'] or 'nothing'}, not {want['id']}"] if stale else []),
    ]


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
