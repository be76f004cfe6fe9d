"""The configuration of keepalived, and our rules of nftables: on disk and as loaded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Answer, Command, Script, look, sh
from provision.steps.base import Check, Fact, Owned, State, Step, UnreadableError, differing
from provision.steps.facts import HostFacts
from provision.steps.keepalived.layout import CONF, LOADED, RULES, TABLE, UNIT
from provision.steps.live import read_once
from provision.steps.system import file_scan
from provision.steps.system.file import change_file, diff_file
from provision.steps.wording import Vocabulary, Words

FILES = {"conf": CONF, "rules": RULES}
ID = "config:keepalived"

SCRIPT = Script(
    "keepalived/read-config",
    f"""
echo "active $(systemctl is-active {UNIT} 2>/dev/null)" || :
cat {LOADED} 2>/dev/null || :
echo "now $(nft list table ip {TABLE} 2>/dev/null | sha256sum | cut -c1-64)"
echo '# files'
depth=
set -- {CONF} {RULES}
"""
    + file_scan.FIND,
)
RELOAD = Script(
    "keepalived/reload",
    f"""
systemctl is-active --quiet {UNIT} || exit 0
systemctl reload {UNIT} || {{ systemctl status --no-pager --full --lines=15 {UNIT} >&2 || :; exit 1; }}
""",
)
UNLOAD = Script("keepalived/unload", f"nft delete table ip {TABLE} 2>/dev/null || :")


@dataclass(frozen=True, kw_only=True)
class KeepalivedConfig(Step):
    """Both files, loaded where keepalived runs.

    Args:
        conf: keepalived's configuration, or a pure function from the host facts to that file.
        rules: the rules, or a pure function from the host facts to that file.
    """

    words: ClassVar[Vocabulary] = {
        "conf": Words("another keepalived.conf"),
        "rules": Words("other rules of nftables"),
        "loaded": Words("not loaded"),
    }
    volatile: ClassVar[frozenset[str]] = frozenset({"loaded"})

    conf: bytes | Callable[[HostFacts], bytes] = field(repr=False)
    rules: bytes | Callable[[HostFacts], bytes] = field(repr=False)

    @property
    def id(self) -> str:
        """`config:keepalived`."""
        return ID

    @property
    def after(self) -> tuple[str, ...]:
        """A start loads both files."""
        return (f"service:{UNIT.removesuffix('.service')}",)

    def fact(self) -> Fact:
        """Reads both files, and the note of the last load."""
        return Fact(look(SCRIPT, title="look at keepalived"), parse)

    def want(self, facts: HostFacts, have: State) -> State:
        """Both files for this host, loaded.

        Raises:
            RefusalError: the host has no address towards the other balancers.
        """
        contents = {"conf": self.conf, "rules": self.rules}
        return {
            **{name: file_scan.Content(text(facts) if callable(text) else text) for name, text in contents.items()},
            "loaded": True,
        }

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Writes the files, then has a running keepalived load them."""
        changed = [name for name, _ in differing(have, want) if name in FILES] if want else list(FILES)
        commands = [
            command for name in changed for command in change_file(FILES[name], _file(have, name), _file(want, name))
        ]
        if want is None:
            return [*commands, sh(UNLOAD, title=f"remove the table {TABLE}")]
        return [*commands, sh(RELOAD, title="reload keepalived if it runs")]

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The files of the past, loaded."""
        return {**{name: past[name] for name in FILES}, "loaded": True}

    def impact(self, have: State, want: State) -> str:
        """A reload keeps the address where it is."""
        return "" if have is None or want is None else "reloads keepalived (the address stays)"

    def diff(self, have: State, want: State) -> Sequence[str]:
        """A unified diff of each file."""
        return [line for name, path in FILES.items() for line in diff_file(path, _file(have, name), _file(want, name))]

    def check(self, live: Any) -> Iterator[Check]:
        """keepalived has loaded both files, and the kernel has our rules."""
        state = parse(read_once(live, self.fact().command)) or {}
        yield Check("loaded", state.get("loaded", False), True)


def _file(state: State, name: str) -> State:
    sha256 = (state or {}).get(name)
    return sha256 and {"kind": "file", "sha256": sha256, "mode": "0644", "owner": "root:root"}


def parse(answer: Answer) -> State:
    """Parse the answer to the read; None where neither file exists.

    Args:
        answer: the answer.

    Raises:
        UnreadableError: the answer is not whole.
    """
    head, mark, files = answer.stdout.partition(b"# files\n")
    if answer.exit or not mark:
        raise UnreadableError(answer.complaint or "the answer about keepalived ends early")
    words = dict(line.partition(" ")[::2] for line in head.decode(errors="replace").splitlines())
    found = file_scan.parse_bytes(files)
    texts = {name: found[path].sha256 if path in found else None for name, path in FILES.items()}
    if not any(texts.values()):
        return None
    noted = all(words.get(name) == sha256 for name, sha256 in texts.items())
    as_loaded = noted and words.get("table") == words.get("now")
    return {**texts, "loaded": as_loaded or words.get("active") not in ("active", "reloading")}


@dataclass(frozen=True, kw_only=True)
class OwnedKeepalived(Owned):
    """Finds our configuration of keepalived."""

    @property
    def finds(self) -> frozenset[str]:
        """The one id."""
        return frozenset({ID})

    def fact(self) -> Fact:
        """Reads the shared listing: a host without a common address costs no read of its own."""

        def found(answer: Answer) -> State:
            files = file_scan.parse(answer)
            texts = {name: files[path].sha256 if path in files else None for name, path in FILES.items()}
            return {ID: {**texts, "loaded": True}} if any(texts.values()) else {}

        return Fact(file_scan.command(), found)

    def step(self, step_id: str) -> Step:
        """The configuration, to be removed."""
        return KeepalivedConfig(conf=b"", rules=b"")
