"""Repositories of apt: their keys, and the guard against a second source line for the same one."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.command import Command, sh
from provision.steps import listing
from provision.steps.base import Answer, Check, Fact, RefusalError, State, Step
from provision.steps.facts import HostFacts
from provision.steps.file import change_file, file_state
from provision.steps.listing import Content, Found
from provision.steps.openpgp import fingerprints

KEYRINGS = "/etc/apt/keyrings/"

# gpg with a home of its own: it would make one in /root otherwise.
FETCH = r"""
umask 022
new=$1.provision-new
url=$(printf %s "$2" | sed "s/{distribution}/$(sed -n 's/^ID=//p' /etc/os-release | tr -cd a-z)/")
home=$(mktemp -d); trap 'rm -rf -- "$home"; rm -f -- "$new"' EXIT
[ -d "$(dirname -- "$1")" ] || install -d -m 0755 -- "$(dirname -- "$1")"
curl --fail --silent --show-error --location --connect-timeout 15 --max-time 60 --retry 2 --max-filesize 1000000 \
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
"""


@dataclass(frozen=True, kw_only=True)
class AptKey(Step):
    """The key of a repository: exactly the one with the pinned fingerprint, wherever it is fetched from.

    Args:
        path: where the key is kept.
        url: where it is fetched from, by the host; `{distribution}` stands for the host's.
        fingerprint: 40 hexadecimal digits.
    """

    path: str
    url: str
    fingerprint: str

    @property
    def id(self) -> str:
        """`apt_key:PATH`."""
        return f"apt_key:{self.path}"

    def fact(self) -> Fact:
        """Reads the file; its fingerprint is computed here, because a fresh host has no gpg."""
        return Fact(listing.covering(self.path), lambda answer: _key_state(listing.parse(answer).get(self.path)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The one key, readable by apt."""
        return {"kind": "file", "fingerprints": [self.fingerprint], "mode": "0644"}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Fetches and checks the key, or puts back the one that was there."""
        if want is None or want.get("sha256"):
            return change_file(self.path, have, want)
        title = f"fetch the key {self.url} (fingerprint {self.fingerprint})"
        return [sh(FETCH, self.path, self.url, self.fingerprint, title=title, timeout=300)]

    def check(self, live: Any) -> Iterator[Check]:
        """The file has the pinned key, and apt may read it."""
        said = live.run("stat -c %%a -- %s && base64 -w0 <%s", self.path, self.path)
        mode, _, encoded = said.stdout.partition("\n")
        yield Check("mode", mode or "absent", "644")
        yield Check("fingerprint", list(_decoded(encoded)), [self.fingerprint])


def _decoded(encoded: str) -> tuple[str, ...]:
    return fingerprints(base64.b64decode(encoded))


def _key_state(found: Found | None) -> State:
    state = file_state(found)
    if found is None or state is None or found.kind != "file":
        return state
    seen = list(fingerprints(found.sha256.data)) if isinstance(found.sha256, Content) else ["not readable by apt"]
    return {**state, "fingerprints": seen}


@dataclass(frozen=True, kw_only=True)
class OnlySource(Step):
    """A guard: nobody else's source names this repository with another key. apt refuses to do anything with both.

    Args:
        name: what the repository is for.
        uri: the repository; `{distribution}` and `{architecture}` stand for the host's.
        signed_by: our key.
    """

    name: str
    uri: str
    signed_by: str

    @property
    def id(self) -> str:
        """`only_source:NAME`."""
        return f"only_source:{self.name}"

    def fact(self) -> Fact:
        """Reads all sources."""
        return Fact(listing.command(), _sources)

    def want(self, facts: HostFacts, have: State) -> State:
        """Nothing; refuses where another source is found."""
        uri = self.uri.replace("{distribution}", facts.distribution).replace("{architecture}", facts.architecture)
        for place, other, key in (have or {}).get("sources", ()):
            if other.replace("$(ARCH)", facts.architecture).rstrip("/") == uri.rstrip("/") and key != self.signed_by:
                raise RefusalError(
                    f"{place} names {uri} with {'the key ' + key if key else 'no key of its own'}, and apt refuses a "
                    f"second line with another: remove it (provision writes its own)"
                )
        return {}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """Apt can read its sources."""
        said = live.run("apt-get indextargets --format '$(SITE)'")
        yield Check("apt reads its sources", said.stderr.strip() if said.rc else "", "")


def _sources(answer: Answer) -> State:
    found = listing.parse(answer)
    return {"sources": [entry for path in sorted(found) for entry in _entries(path, found[path])]}


def _entries(path: str, found: Found) -> Iterator[list[str]]:
    """Place, URI and key of every source in a file that apt would read."""
    if not path.startswith("/etc/apt/sources.list") or not isinstance(found.sha256, Content):
        return
    text = found.sha256.data.decode(errors="replace")
    if path.endswith(".list"):
        yield from _one_line(path, text)
    elif path.endswith(".sources"):
        yield from _stanzas(path, text)


ONE_LINE = re.compile(r"\s*deb(?:-src)?\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<uri>\S+)")


def _one_line(path: str, text: str) -> Iterator[list[str]]:
    for number, line in enumerate(text.splitlines(), 1):
        match = ONE_LINE.match(line)
        if match:
            options = dict(word.partition("=")[::2] for word in (match["options"] or "").split())
            yield [f"{path}:{number}", match["uri"], options.get("signed-by", "")]


def _stanzas(path: str, text: str) -> Iterator[list[str]]:
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if fields.get("enabled", "yes").lower() not in ("no", "false", "0", "off"):
            for uri in fields.get("uris", "").split():
                yield [path, uri, fields.get("signed-by", "").strip()]


def _fields(stanza: str) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + "\n" + line.strip()
        elif ":" in line and not line.startswith("#"):
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
