"""The sources that apt reads on a host, line by line. Source: sources.list(5)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

# Lines of every file of apt's configuration, in grep's form: path, number and text, with colons between them. Comment
# lines are left out. apt takes no file name with characters outside the pattern.
READ = r"""
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
  case $list in *[!A-Za-z0-9_./-]*) continue ;; esac
  [ ! -f "$list" ] || set -- "$@" "$list"
done
[ $# -eq 0 ] || grep -Hnv '^#' -- "$@" || :
"""
GREP_LINE = re.compile(r"(/etc/apt/sources\.list(?:\.d/[A-Za-z0-9_.-]+)?):(\d{1,9}):(.*)", re.DOTALL)
ONE_LINE = re.compile(r"\s*(?P<type>deb(?:-src)?)\s+(?:\[(?P<options>[^]]*)\]\s*)?(?P<rest>[^#]*)")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}:)//([^\s/?#]*)(\S*?)(?=['\"]*(?:\s|$))")
USUAL = frozenset(
    (
        *("apt", "archive", "archives", "deb", "linux", "mirror", "mirrors", "pub", "repo", "repos", "security"),
        *("debian", "debian-archive", "debian-debug", "debian-security", "ubuntu", "ubuntu-ports", "stable"),
        *("compute", "cuda", "libnvidia-container", ".", "InRelease", "Release"),
    )
)
"""Names in the path of a repository that are no secret. A mirror with accounts may have a token as another name."""
HIDDEN = "..."
_HIDDEN = re.compile(r"\.\.\.(?:/\.\.\.)+")
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
OFF = ("no", "false", "0", "off", "without", "disable")


@dataclass(frozen=True)
class AptLine:
    """A repository in a line or a stanza.

    Args:
        path: the file.
        number: number of the line; of a stanza's first line.
        binary: whether the entry is for packages, and not only for sources.
        uri: the URI as written.
        suite: the suite as written.
        components: the components as written; empty for a flat repository.
        architectures: architectures to which the entry is limited; empty for all.
        signed_by: the key, or empty.
    """

    path: str
    number: int
    binary: bool
    uri: str
    suite: str
    components: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    signed_by: str = ""

    @property
    def place(self) -> str:
        """`FILE:LINE`."""
        return f"{self.path}:{self.number}"

    @property
    def switch_off(self) -> str:
        """The command that takes the entry out of apt's sources and leaves the rest of the file alone."""
        edit = f"{self.number}i Enabled: no" if self.path.endswith(".sources") else f"{self.number}s/^/# /"
        return f"sudo sed -i '{edit}' {self.path}"


def shown(text: str) -> str:
    """Return a text for a screen or a document, with addresses of repositories that tell no secret: scheme, host and
    port, usual names of the path, and the suite. `...` stands for all else, such as a token in path or query.

    Args:
        text: of the host, such as an address or a complaint of apt.
    """
    return _ADDRESS.sub(_address, text)


def _address(match: re.Match[str]) -> str:
    scheme, place, path = match.groups()
    before, mark, suite = path.rpartition("/dists/")
    names = [name if name in USUAL or not name else HIDDEN for name in (before if mark else suite).split("/")]
    names += ["dists", *(name if _SUITE.fullmatch(name) else HIDDEN for name in suite.split("/"))] if mark else []
    said = _HIDDEN.sub(HIDDEN, "/".join(names))
    host = place.rpartition("@")[2]
    login = "[secret]@" if host != place else ""
    return f"{scheme}//{login}{host}{'' if said.startswith('/') or not said else '/'}{said}"


def parse(lines: Iterable[str]) -> tuple[AptLine, ...]:
    """Parse the output of `READ`, in apt's order: /etc/apt/sources.list, then the other files by name."""
    files: dict[str, list[tuple[int, str]]] = {}
    for line in lines:
        match = GREP_LINE.fullmatch(line)
        if match:
            files.setdefault(match[1], []).append((int(match[2]), match[3]))
    return tuple(entry for path in sorted(files) for entry in _entries(path, files[path]))


def _entries(path: str, lines: list[tuple[int, str]]) -> Iterator[AptLine]:
    if not path.endswith(".sources"):
        for number, text in lines:
            yield from _one_line(path, number, text)
        return
    stanza: list[tuple[int, str]] = []
    for number, text in [*lines, (0, "")]:
        if text.strip():
            stanza.append((number, text))
        elif stanza:
            yield from _stanza(path, stanza)
            stanza = []


def _one_line(path: str, number: int, text: str) -> Iterator[AptLine]:
    match = ONE_LINE.match(text)
    words = match["rest"].split() if match else []
    if match and len(words) >= 2:
        options = dict(word.partition("=")[::2] for word in (match["options"] or "").split())
        yield AptLine(
            *(path, number, match["type"] == "deb", words[0], words[1], tuple(words[2:])),
            architectures=tuple(filter(None, options.get("arch", "").split(","))),
            signed_by=options.get("signed-by", ""),
        )


def _stanza(path: str, lines: list[tuple[int, str]]) -> Iterator[AptLine]:
    fields = _fields(text for _, text in lines)
    if fields.get("enabled", "yes").lower() in OFF:
        return
    types, uris, suites, components, architectures = (
        tuple(fields.get(name, "").split()) for name in ("types", "uris", "suites", "components", "architectures")
    )
    for uri in uris:
        for suite in suites:
            key = fields.get("signed-by", "").strip()
            yield AptLine(path, lines[0][0], "deb" in types, uri, suite, components, architectures, key)


def _fields(lines: Iterable[str]) -> Mapping[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + "\n" + line.strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields
