"""What a run costs on the wire and on a host, counted where it cannot be wrong: by the kernel and by a host's sshd."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provision.lab import cgroups
from provision.lab.host import Host
from provision.lab.lab import Lab


@dataclass
class Counts:
    """What one run did.

    Args:
        connections: logins to one host.
        execs: sessions (execs, shells, subsystems) that one host's sshd started.
        wire: bytes to and from all hosts, headers and all.
        host_cpu: seconds of CPU of one host, with its sshd, its Docker and its containers.
    """

    connections: int = 0
    execs: int = 0
    wire: int = 0
    host_cpu: float = 0.0


@contextlib.contextmanager
def counting(lab: Lab) -> Iterator[Counts]:
    """Count what happens inside the block; all hosts do the same, so sshd is asked on the first only.

    Args:
        lab: its hosts' sshd must log verbosely.
    """
    host, counts = lab.hosts()[0], Counts()
    cursor = _journal(host, "--lines=0", "--show-cursor").split("cursor: ")[1].strip()
    wire, cpu = _bytes(lab), _cpu(lab, host)
    yield counts
    counts.wire, counts.host_cpu = _bytes(lab) - wire, _cpu(lab, host) - cpu
    host.run(["journalctl", "--sync"])
    said = _journal(host, f"--after-cursor={cursor}")
    counts.connections = said.count("Accepted publickey")
    counts.execs = said.count("Starting session: ")


def _journal(host: Host, *words: str) -> str:
    return host.run(["journalctl", "--output=cat", "--identifier=sshd", "--identifier=sshd-session", *words]).stdout


def _bytes(lab: Lab) -> int:
    statistics = Path(f"/sys/class/net/{lab.network.link}/statistics")
    return sum(int((statistics / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


def _cpu(lab: Lab, host: Host) -> float:
    """Seconds of CPU of a host since it was booted, from its cgroup (version 1, else 2)."""
    for folder in cgroups.make(lab.name, host.name):
        for name, pattern, unit in (("cpuacct.usage", r"(\d+)", 1e9), ("cpu.stat", r"usage_usec (\d+)", 1e6)):
            found = re.match(pattern, (folder / name).read_text()) if (folder / name).exists() else None
            if found:
                return int(found[1]) / unit
    return 0.0
