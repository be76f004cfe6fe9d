"""What goes over the wire, counted where it cannot be wrong: by the kernel's link and by a host's sshd."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provision.lab.host import Host
from provision.lab.lab import Lab


@dataclass
class Counts:
    """What one run did.

    Args:
        connections: logins to one host.
        execs: sessions (execs, shells, subsystems) that one host's sshd started.
        wire: bytes to and from all hosts, headers and all.
    """

    connections: int = 0
    execs: int = 0
    wire: int = 0


@contextlib.contextmanager
def counting(lab: Lab) -> Iterator[Counts]:
    """Count what happens inside the block; all hosts do the same, so sshd is asked on the first only.

    Args:
        lab: its hosts' sshd must log verbosely.
    """
    host, counts = lab.hosts()[0], Counts()
    cursor = _journal(host, "--lines=0", "--show-cursor").split("cursor: ")[1].strip()
    before = _bytes(lab)
    yield counts
    counts.wire = _bytes(lab) - before
    host.run(["journalctl", "--sync"])
    said = _journal(host, f"--after-cursor={cursor}")
    counts.connections = said.count("Accepted publickey")
    counts.execs = said.count("Starting session: ")


def _journal(host: Host, *words: str) -> str:
    return host.run(["journalctl", "--output=cat", "--identifier=sshd", "--identifier=sshd-session", *words]).stdout


def _bytes(lab: Lab) -> int:
    statistics = Path(f"/sys/class/net/{lab.network.link}/statistics")
    return sum(int((statistics / name).read_text()) for name in ("rx_bytes", "tx_bytes"))
