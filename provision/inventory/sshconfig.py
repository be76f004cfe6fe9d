"""The options of a host in `~/.ssh/config`, by paramiko's reader."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from provision.errors import Problem
from provision.inventory.near import clip
from provision.inventory.paths import expanded

if TYPE_CHECKING:
    import paramiko

MAX_BYTES = 2**20
MAX_INCLUDES = 16

Lookup = dict[str, str | list[str]]


class SshConfig:
    """The configuration files of OpenSSH for one load, each read once.

    Args:
        default: the user's own file; need not exist.
        problems: collects every problem, once per file.
    """

    def __init__(self, default: Path, problems: list[Problem]) -> None:
        self.default = default
        self._problems = problems
        self._read: dict[Path, paramiko.SSHConfig | None] = {}

    def lookup(self, host: str, file: Path | None = None) -> Lookup:
        """Return the options of a host, with names in lower case; none if there is no file.

        Args:
            host: the name, as after `ssh`.
            file: a file in place of the default (`-F`).
        """
        path = file or self.default
        if path not in self._read:
            self._read[path] = self._parsed(path, required=file is not None)
        config = self._read[path]
        if config is None:
            return {}
        try:
            return dict(config.lookup(host))
        except Exception as error:  # noqa: BLE001 - a `Match exec` or a strange token may raise anything in paramiko
            self._problems.append(Problem(str(path), 0, clip(host), f"cannot be applied: {clip(str(error))}"))
            return {}

    def _parsed(self, path: Path, *, required: bool) -> "paramiko.SSHConfig | None":
        if not required and not path.is_file():
            return None
        from paramiko import SSHConfig, SSHException

        try:
            return SSHConfig.from_text("\n".join(_lines(path, MAX_INCLUDES)))
        except (OSError, SSHException, ValueError) as error:
            self._problems.append(Problem(str(path), 0, "", f"cannot be read: {clip(str(error))}"))
            return None


def _lines(path: Path, depth: int) -> Iterator[str]:
    """Yield a file's lines with `Include` resolved, which paramiko does not do.

    After an Include its section is opened again, because the lines that follow belong to the section, not to the last
    `Host` of the included file.
    """
    section = "Host *"
    for line in _text(path).splitlines():
        word, _, rest = line.strip().replace("=", " ", 1).partition(" ")
        if word.lower() in ("host", "match"):
            section = line
        if word.lower() != "include":
            yield line
            continue
        for name in shlex.split(rest) if depth else ():
            for file in _included(name):
                yield from _lines(file, depth - 1)
        yield section


def _included(name: str) -> list[Path]:
    """Return the files of an Include; a relative path is below ~/.ssh."""
    pattern = Path.home() / ".ssh" / expanded(name)
    return sorted(path for path in Path("/").glob(str(pattern).lstrip("/")) if path.is_file())


def _text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError("is larger than 1 MiB")
    return data.decode("utf-8", "replace")
