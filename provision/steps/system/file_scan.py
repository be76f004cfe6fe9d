"""Reading files: one `find` lists, for all steps at once, every path that may carry our mark, with its content."""

import fnmatch
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

from provision.command import Answer, Run, Script, look
from provision.steps.base import UnreadableError
from provision.steps.nginx_paths import CACHE, CURRENT, LINK, LOGS, ROOT

ROOTS = (
    "/etc/provision",
    "/opt/provision/lib",
    "/etc/apt/apt.conf.d/0-provision-proxy",
    "/etc/apt/auth.conf.d/provision-*",
    "/etc/apt/keyrings/provision-*",
    "/etc/apt/preferences.d/provision-*",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/logrotate.d/provision-*",
    "/etc/sysctl.d/*-provision.conf",
    "/etc/tmpfiles.d/provision-*",
)
"""The paths of the shared listing, with everything below. A step reads other files by a command of its own."""

FLAT = (
    "/opt/provision",
    ROOT,
    CURRENT,
    "/run/provision",
    LINK,
    CACHE,
    "/var/lib/provision",
    LOGS,
)
"""Paths of the shared listing without anything below."""

RECORD = r"%p\0%y\0%m\0%u:%g\0%l\0"
"""The fields of `find -printf` for one thing. Names end in NUL: a name may hold newlines."""

CONTENTS = r"""-exec sh -c 'echo "=contents $#"; exec cat -- "$@"' sh {} +"""
"""One program for the contents of many files. The contents follow the records, each of which has `later SIZE`, and in
the same order. GNU find flushes its own output before it runs a program."""

SUMS = r"""-exec sh -c 'echo "=sums $#"; exec sha256sum -- "$@"' sh {} +"""
"""One program for the hashes of many files; their records have `sum`."""

# The content of a file up to 64 KiB that every user of the host may read; of any other file the hash.
FIND = rf"""
for path do
  if [ -e "$path" ] || [ -L "$path" ]; then set -- "$@" "$path"; fi
  shift
done
[ $# -gt 0 ] || exit 0
exec find "$@" $depth -printf '{RECORD}' \( \
  -type f -size -65k -perm -004 -printf 'later %s\n\n' {CONTENTS} -o \
  -type f -printf 'sum\n\n' {SUMS} -o -printf '\n' \)
"""


class Content(str):
    """The sha256 of some bytes, in hexadecimal, with the bytes. Compares, prints and is stored as the hash.

    Args:
        data: the bytes.
    """

    data: bytes

    def __new__(cls, data: bytes) -> Self:
        """Hash the bytes."""
        self = super().__new__(cls, hashlib.sha256(data).hexdigest())
        self.data = data
        return self


@dataclass(frozen=True)
class FileEntry:
    """An entry of a file system.

    Args:
        kind: `file`, `directory`, `link`, or find's letter for a rarer kind.
        mode: four octal digits.
        owner: user and group.
        target: target of a link.
        sha256: hash of a file: a Content where the bytes were read, else the bare hash.
    """

    kind: str
    mode: str
    owner: str
    target: str = ""
    sha256: str = ""


def command(*paths: str, depth: int | None = None) -> Run:
    """The read-only command that lists paths and everything below them; the shared listing without paths.

    Args:
        paths: absolute paths.
        depth: how many levels below the paths; None for all levels.
    """
    find = FIND.strip("\n")
    if paths:
        parts = ["depth=" if depth is None else f"depth='-maxdepth {depth}'", find]
    else:
        parts = ["depth=", "set -- " + " ".join(ROOTS), f"({find}\n) || exit"]
        parts += ["depth='-maxdepth 0'", "set -- " + " ".join(FLAT), find]
    script = Script("file/list" if paths else "file/list-ours", "\n".join(parts))
    return look(script, *paths, title=f"list {' '.join(paths) or 'our files'}")


def covering(*paths: str, depth: int | None = None) -> Run:
    """The command for some paths: the shared listing where all paths are covered."""
    covered = all(is_covered(path) or (path in FLAT and depth == 0) for path in paths)
    return command() if covered else command(*paths, depth=depth)


def is_covered(path: str) -> bool:
    """Whether the shared listing shows this path and everything below."""
    return any(path == root or path.startswith(root + "/") or _matches(path, root) for root in ROOTS)


def _matches(path: str, glob: str) -> bool:
    """Whether a shell would match: `*` does not cross a slash."""
    return path.count("/") == glob.count("/") and fnmatch.fnmatchcase(path, glob)


Waiting = dict[str, list[tuple[str, int]]]
"""Contents and hashes still to come, by the word before them: the files, each with its size."""


def parse(answer: Answer) -> Mapping[str, FileEntry]:
    """Path -> the thing at this path.

    Raises:
        UnreadableError: the listing is not whole, so it proves no absence.
    """
    if answer.exit:
        raise UnreadableError(answer.complaint or f"find exited {answer.exit}")
    return parse_bytes(answer.stdout)


@lru_cache(maxsize=64)  # every step of a host parses the same answer
def parse_bytes(listing: bytes) -> Mapping[str, FileEntry]:
    """`parse`, for a listing inside a longer answer."""
    entries: dict[str, FileEntry] = {}
    waiting: Waiting = {"=contents": [], "=sums": []}
    while listing:
        if listing.startswith(b"="):
            listing = _behind(listing, entries, waiting)
            continue
        path, listing = _record(listing, entries, waiting)
        if not path.startswith("/"):
            raise UnreadableError(f"the listing is garbled at {path[:60]!r}")
    if any(waiting.values()):
        raise UnreadableError("the listing ends early")
    return entries


KINDS = {"f": "file", "d": "directory", "l": "link"}


def _record(listing: bytes, entries: dict[str, FileEntry], waiting: Waiting) -> tuple[str, bytes]:
    try:
        *head, rest = listing.split(b"\0", 5)
        path, kind, mode, owner, target = (part.decode(errors="surrogateescape") for part in head)
        word, _, after = rest.partition(b"\n") if kind == "f" else (b"", b"", b"")
        sha256 = ""
        if word.startswith((b"later ", b"sum")):
            size = int(word.split()[1]) if word.startswith(b"later ") else 0
            waiting["=contents" if word.startswith(b"later ") else "=sums"].append((path, size))
            rest = after
        elif kind == "f":
            sha256, rest = _sum(rest)
        if not rest.startswith(b"\n"):
            raise UnreadableError(f"{path} changed while it was read")
        entries[path] = FileEntry(KINDS.get(kind, kind), f"{int(mode, 8):04o}", owner, target, sha256)
    except ValueError as error:
        raise UnreadableError("the listing ends early") from error
    return path, rest[1:]


def _behind(listing: bytes, entries: dict[str, FileEntry], waiting: Waiting) -> bytes:
    """Take the contents or hashes of the first files that wait for them, and return the rest of the listing."""
    line, _, rest = listing.partition(b"\n")
    try:
        word, count = line.decode().split()
        files, waiting[word] = waiting[word][: int(count)], waiting[word][int(count) :]
    except (ValueError, KeyError) as error:
        raise UnreadableError(f"the listing is garbled at {line[:60]!r}") from error
    for path, size in files:
        content: str = ""
        if word == "=sums":
            content, rest = _sum(rest)
        elif len(rest) >= size:
            content, rest = Content(rest[:size]), rest[size:]
        if len(content) != 64:
            raise UnreadableError(f"{path} changed while it was read")
        entries[path] = replace(entries[path], sha256=content)
    if len(files) < int(count) or not (rest.startswith((b"/", b"=")) or not rest):
        raise UnreadableError("a file changed while it was read")
    return rest


def _sum(rest: bytes) -> tuple[str, bytes]:
    """The hash of a file, and the rest. sha256sum begins with a backslash where it had to escape the name."""
    line, _, after = rest.partition(b"\n")
    if not line.startswith(b"content "):
        return line.lstrip(b"\\")[:64].decode("ascii"), after
    size = int(line.split()[1])
    return Content(after[:size]), after[size:]
