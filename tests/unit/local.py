"""A host that is this machine's own shell: everything of a run but the SSH connection is real."""

import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from provision.errors import UnreachableError
from provision.inventory import Connection
from provision.roles import nvidia_toolkit
from provision.ssh.session import Session

SETTINGS = {"nvidia_toolkit": nvidia_toolkit.Settings()}
"""The settings that reading a host needs, whatever its steps are."""


class LocalSession(Session):
    """Runs every script with `sh` here, without sudo.

    Args:
        dead: execs, counted from 1, at which the connection is lost.
    """

    def __init__(self, dead: frozenset[int] = frozenset()) -> None:
        super().__init__(Connection(address="192.0.2.1"))
        self.dead = dead
        self.scripts: list[bytes] = []

    def begin(self) -> None:
        """There is nothing to connect to."""

    def open(self) -> None:
        """Likewise."""

    def _exec(
        self,
        text: bytes,
        limit_s: float,
        on_data: Callable[[bytes], None] | None = None,
        *,
        extra: IO[bytes] | None = None,
        limit: int = 0,
        program: Sequence[str] = ("sh", "-s"),
        beside: bool = False,
    ) -> tuple[bytes, bytes, int]:
        self.execs += 1
        self.scripts.append(text)
        if self.execs in self.dead:
            raise UnreachableError("the connection was lost")
        data = text + (extra.read() if extra else b"")
        done = subprocess.run(program, input=data, capture_output=True, check=False, timeout=limit_s)
        if on_data:
            on_data(done.stdout)
        return done.stdout, done.stderr, done.returncode


def deployed(slots: Iterator[Any]) -> None:
    """Do a host's part of a run to its end, with room for every slot."""
    deque(slots, maxlen=0)
