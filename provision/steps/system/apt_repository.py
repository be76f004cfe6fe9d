"""Repositories of apt: their keys and sources, and the lines of other files about the same repository.

A host on which somebody followed Docker's or NVIDIA's own instructions has a file such as docker.list, with a
key of its own for the repository. apt takes two lines for the same URI and suite only where both name the same key: we
use the existing line as it is, and our own line is not written, or goes. A mirror in the inventory is another URI.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps import apt_lines
from provision.steps.apt_lines import AptLine
from provision.steps.base import Check, Fact, RefusalError, State, Step
from provision.steps.facts import HostFacts, live_facts
from provision.steps.system import file_scan
from provision.steps.system.file import FILE_WORDS, File, change_file, file_state
from provision.steps.system.file_scan import Content, FileEntry
from provision.steps.system.mirror_login import NETRC
from provision.steps.system.openpgp import fingerprints
from provision.steps.system.proxy import OUTSIDE
from provision.steps.wording import Vocabulary, Words

KEYRINGS = "/etc/apt/keyrings/"

# gpg with a home of its own: otherwise gpg would make a home in /root.
FETCH = Script(
    "apt/fetch-key",
    OUTSIDE
    + NETRC
    + r"""
umask 022
new=$1.provision-new
url=$(printf %s "$2" | sed "s/{distribution}/$(sed -n 's/^ID=//p' /etc/os-release | tr -cd a-z)/")
home=$(mktemp -d); trap 'rm -rf -- "$home"; rm -f -- "$new"' EXIT
[ -d "$(dirname -- "$1")" ] || install -d -m 0755 -- "$(dirname -- "$1")"
outside curl --fail --silent --show-error --location --connect-timeout 15 --max-time 60 --retry 2 \
  --max-filesize 1000000 $netrc \
  --output "$new" -- "$url" || { echo "the key could not be fetched from $url" >&2; exit 1; }
found=$(gpg --homedir "$home" --batch --no-tty --quiet --with-colons --show-keys -- "$new" 2>"$home/why" |
  awk -F: '$1=="pub"{p=1} $1=="sub"{p=0} p&&$1=="fpr"{print $10; p=0}' | tr '\n' ' ')
if [ "${found% }" != "$3" ]; then
  echo "the key at $url does not match:" >&2
  echo "  it has the fingerprint ${found:-none: it is no OpenPGP key}" >&2
  echo "  the inventory pins     $3" >&2
  exit 1
fi
chmod 0644 -- "$new"
mv -fT -- "$new" "$1"
""",
)


@dataclass(frozen=True, kw_only=True)
class AptKey(Step):
    """The key of a repository: exactly the key with the pinned fingerprint, from whatever address.

    Args:
        path: file for the key.
        url: address from which the host fetches the key; `{distribution}` stands for the host's.
        fingerprint: 40 hexadecimal digits.
        repository: the key's repository, or None where every host needs the key.
    """

    gone: ClassVar[str] = "another file names the repository, with a key of its own"
    words: ClassVar[Vocabulary] = {
        **FILE_WORDS,
        "fingerprints": Words("other keys", "keys"),
    }

    path: str
    url: str
    fingerprint: str
    repository: "Repository | None" = None

    @property
    def id(self) -> str:
        """`apt_key:PATH`."""
        return f"apt_key:{self.path}"

    def fact(self) -> Fact:
        """Reads the file; the fingerprint is computed here, because a fresh host has no gpg."""
        return Fact(file_scan.covering(self.path), lambda answer: _key_state(file_scan.parse(answer).get(self.path)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The key, readable by apt; none where no source refers to it."""
        if self.repository and not self.repository.needs_key(facts):
            return None
        return {"kind": "file", "fingerprints": [self.fingerprint], "mode": "0644"}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Fetches and checks the key, or puts the past key back."""
        if want is None or want.get("sha256"):
            return change_file(self.path, have, want)
        title = f"fetch the key {self.url} (fingerprint {self.fingerprint})"
        return [sh(FETCH, self.path, self.url, self.fingerprint, title=title, timeout=300)]

    def check(self, live: Any) -> Iterator[Check]:
        """The file has the pinned key, and apt may read it; or no source refers to the key."""
        if self.repository and not self.repository.needs_key(live_facts(live)):
            yield Check("key of our own", live.run("test -e %s", self.path).rc == 0, False)
            return
        result = live.run("stat -c %%a -- %s && base64 -w0 <%s", self.path, self.path)
        mode, _, encoded = result.stdout.partition("\n")
        yield Check("mode", mode or "absent", "644")
        yield Check("fingerprint", list(_decoded(encoded)), [self.fingerprint])


def _decoded(encoded: str) -> tuple[str, ...]:
    return fingerprints(base64.b64decode(encoded))


def _key_state(entry: FileEntry | None) -> State:
    state = file_state(entry)
    if entry is None or state is None or entry.kind != "file":
        return state
    seen = list(fingerprints(entry.sha256.data)) if isinstance(entry.sha256, Content) else ["not readable by apt"]
    return {**state, "fingerprints": seen}


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of apt from the inventory.

    Args:
        name: its purpose.
        uri: its URI; `{distribution}` and `{architecture}` stand for the host's.
        suite: its suite; `{codename}` stands for the host's.
        component: its component, or empty for a flat repository.
        source: our source file for the repository.
        key: the key file in the source file.
    """

    name: str
    uri: str
    suite: str
    component: str
    source: str
    key: str

    def others(self, facts: HostFacts) -> tuple[AptLine, ...]:
        """The lines of other files with the same URI and suite: apt takes all of them for the same source."""
        uri, suite = self._at(facts)
        return tuple(
            line
            for line in facts.sources_of_apt
            if line.path != self.source and (_uri(line.uri, facts), line.suite) == (uri, suite)
        )

    def reused(self, facts: HostFacts) -> AptLine | None:
        """The line of another file from which apt has the packages already, or None."""
        return next((line for line in self.others(facts) if self._serves(line, facts)), None)

    def needs_key(self, facts: HostFacts) -> bool:
        """Whether our key is needed: for our own source, or for a foreign line that refers to the key."""
        lines = self.others(facts)
        return not lines or any(line.signed_by == self.key for line in lines)

    def refuse(self, facts: HostFacts) -> None:
        """Refuse a host with source lines in contradiction or without needed packages.

        Raises:
            RefusalError: the lines contradict each other or lack packages; the message has a command to resolve it.
        """
        lines = self.others(facts)
        uri, suite = self._at(facts)
        first = next((line for line in lines if line.signed_by), None)
        contrary = [line for line in lines if first and line.signed_by != first.signed_by]
        if first and contrary and _is_refused_by_apt(lines):
            named = "; ".join(f"{line.place} {_signed(line)}" for line in (first, *contrary[:MOST]))
            raise RefusalError(
                f"apt reads no source at all, because several lines name {uri} {suite} with different keys: {named}. "
                f"Keep one of them. To keep the first: {_switched_off(contrary)}"
            )
        if lines and not self.reused(facts):
            raise RefusalError(
                f"{lines[0].place} names {uri} {suite}, but not for {self._missing(facts)}, and apt takes no second "
                f"line with another key. Add that to the line, or let provision write its own: {_switched_off(lines)}"
            )

    def _at(self, facts: HostFacts) -> tuple[str, str]:
        uri = self.uri.replace("{distribution}", facts.distribution).replace("{architecture}", facts.architecture)
        return uri.rstrip("/"), self.suite.replace("{codename}", facts.codename)

    def _serves(self, line: AptLine, facts: HostFacts) -> bool:
        here = not line.architectures or facts.architecture in line.architectures
        return line.binary and here and (not self.component or self.component in line.components)

    def _missing(self, facts: HostFacts) -> str:
        return " ".join(filter(None, ("packages of", facts.architecture, self.component and f"in {self.component}")))


MOST = 3  # lines that a refusal names


def _uri(uri: str, facts: HostFacts) -> str:
    return uri.replace("$(ARCH)", facts.architecture).rstrip("/")


def _is_refused_by_apt(lines: Sequence[AptLine]) -> bool:
    """Whether apt answers `Conflicting values set for option Signed-By`: once a line has a key, every later
    line must have the same key."""
    key = ""
    for line in lines:
        if key and line.signed_by != key:
            return True
        key = line.signed_by
    return False


def _signed(line: AptLine) -> str:
    if not line.signed_by:
        return "(no key of its own)"
    inside = line.signed_by.startswith("-----BEGIN")
    return "(with a key in the file itself)" if inside else f"(signed by {line.signed_by[:200]})"


def _switched_off(lines: Sequence[AptLine]) -> str:
    """The commands that switch lines off; the last line of a file first, because a command may add a line above it."""
    ordered = sorted(lines[:MOST], key=lambda line: (line.path, -line.number))
    commands = dict.fromkeys(line.switch_off for line in ordered)
    more = len({line.switch_off for line in lines} - commands.keys())
    return "; ".join(commands) + (f"; then run provision again, which names {more} more" if more else "")


@dataclass(frozen=True, kw_only=True)
class OnlySource(Step):
    """A guard: apt must accept the lines of other files about a repository.

    Args:
        repository: the repository.
    """

    repository: Repository

    @property
    def id(self) -> str:
        """`only_source:NAME`."""
        return f"only_source:{self.repository.name}"

    def fact(self) -> Fact:
        """No read of its own: apt's sources are among the host facts."""
        return Fact(file_scan.command(), lambda answer: {})

    def want(self, facts: HostFacts, have: State) -> State:
        """Nothing; refuses where apt would refuse."""
        self.repository.refuse(facts)
        return {}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def note(self, facts: HostFacts, have: State = None) -> str:
        """The foreign line in use."""
        line = self.repository.reused(facts)
        if line is None:
            return ""
        return f"packages come by {line.place} {_signed(line)}, which stays as it is: provision writes no source"

    def check(self, live: Any) -> Iterator[Check]:
        """Apt can read its sources."""
        result = live.run("apt-get indextargets --format '$(SITE)'")
        complaint = apt_lines.shown(result.stderr.strip()) if result.rc else ""
        yield Check("apt reads its sources", complaint, "")


@dataclass(frozen=True, kw_only=True)
class AptSource(File):
    """Our own source for a repository; none where another file names that repository.

    Args:
        repository: the repository.
    """

    gone: ClassVar[str] = "another file names this repository"

    repository: Repository
    kind: str = "apt_source"

    def want(self, facts: HostFacts, have: State) -> State:
        """The source, or none."""
        return None if self.repository.others(facts) else super().want(facts, have)

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The past source; the present source where another file has come to name the repository."""
        return have if self.repository.others(facts) else super().restore(facts, have, past)

    def check(self, live: Any) -> Iterator[Check]:
        """The file is as written, or another file names the repository."""
        reused = self.repository.reused(live_facts(live))
        if reused is None:
            yield from super().check(live)
        else:
            yield Check("source of our own", live.run("test -e %s", self.path).rc == 0, False)
