"""The flags of Docker's daemon: of its next start and of the running daemon. Pure.

Docker refuses to start, and to reload daemon.json, where a flag and a key of daemon.json set the same thing.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from provision.steps.docker.daemon_state import Dockerd

SHORT = {"-H": "host", "-g": "data-root", "-D": "debug", "-s": "storage-driver", "-l": "log-level", "-b": "bridge"}
_VARIABLE = re.compile(r"\$\{?(\w+)")
_WORDS = re.compile(r"[\s\"']+|(?<=\w)=(?=-)")


@dataclass(frozen=True)
class _Place:
    """A flag in a file of docker.service.

    Args:
        flag: the flag.
        at: path and line.
        key: the setting of the unit, or the variable, whose value has the flag.
        line: the line.
    """

    flag: str
    at: str
    key: str
    line: str


def flags(dockerd: Dockerd) -> dict[str, str]:
    """Key of daemon.json -> the flag of the daemon that sets the same thing, with its place."""
    places = list(_places(dockerd))
    by_key: dict[str, str] = {}
    for flag, where in (*_next(dockerd, places), *_unread(dockerd, places), *_running(dockerd, places)):
        for key in _keys(SHORT.get(flag, flag[2:])):
            by_key.setdefault(key, f"{flag} in {where}")
    return by_key


def _next(dockerd: Dockerd, places: list[_Place]) -> Iterator[tuple[str, str]]:
    """The flags of the command with which systemd starts Docker next, and of the variables in that command."""
    if not dockerd.installed:  # the package that a deploy installs may read /etc/default/docker
        yield from ((place.flag, place.at) for place in places)
        return
    command = dockerd.unit.get("ExecStart", "").partition("argv[]=")[2].partition(" ; ")[0]
    for flag in _flags(command):
        yield flag, _where(places, flag) or "the command of docker.service"
    for name in _VARIABLE.findall(command):
        named = (place for place in places if place.key == name or f"{name}=" in place.line)
        yield from ((place.flag, place.at) for place in named)


def _unread(dockerd: Dockerd, places: list[_Place]) -> Iterator[tuple[str, str]]:
    """The flags in unit files, where a file changed after the last `systemctl daemon-reload`."""
    if dockerd.unit.get("NeedDaemonReload") == "yes":
        yield from ((place.flag, f"{place.at}, which systemd has not read yet") for place in places)


def _running(dockerd: Dockerd, places: list[_Place]) -> Iterator[tuple[str, str]]:
    """The flags of the running daemon; they count until Docker restarts."""
    if dockerd.running:
        gone = "the running daemon (its unit no longer has this flag: restart Docker)"
        yield from ((flag, _where(places, flag) or gone) for flag in _flags(" ".join(dockerd.words)))


def _places(dockerd: Dockerd) -> Iterator[_Place]:
    """Every flag in the files of the unit, in the order in which systemd reads them. Comments have none."""
    for path, text in dockerd.texts.items():
        key, goes_on = "", False
        for number, line in enumerate(text.splitlines()):  # the first line is the path
            if line.lstrip().startswith(("#", ";")):
                continue
            key = key if goes_on else line.partition("=")[0].strip()
            goes_on = line.endswith("\\")
            if not key.startswith("Exec") or key == "ExecStart":
                yield from (_Place(flag, f"{path}:{number}", key, line) for flag in _flags(line))


def _where(places: list[_Place], flag: str) -> str:
    return next((place.at for place in reversed(places) if place.flag == flag), "")


def _flags(text: str) -> Iterator[str]:
    for word in _WORDS.split(text):
        flag = word.partition("=")[0]
        if flag.startswith("--") or flag in SHORT:
            yield flag


def _keys(flag: str) -> tuple[str, ...]:
    """The names that a flag may have in daemon.json: a flag that may be given several times is plural there."""
    special: Mapping[str, str] = {"add-runtime": "runtimes", "graph": "data-root"}
    return (special.get(flag, flag), f"{flag}s", f"{flag.removesuffix('y')}ies")
