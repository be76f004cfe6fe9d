"""The cost of a run on the wire and on a host, counted where the count cannot be wrong: by the kernel and by sshd."""

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
    """The counts of one run.

    Args:
        connections: logins to one host.
        execs: sessions (execs, shells, subsystems) of one host's sshd.
        wire: bytes to and from all hosts, headers included.
        host_cpu: seconds of CPU of one host, with its sshd, its Docker and its containers.
    """

    connections: int = 0
    execs: int = 0
    wire: int = 0
    host_cpu: float = 0.0


@contextlib.contextmanager
def counting(lab: Lab) -> Iterator[Counts]:
    """Count inside the block. All hosts do the same, so only the first host's sshd is asked.

    Args:
        lab: the lab; its hosts' sshd must log verbosely.
    """
    host, counts = lab.hosts()[0], Counts()
    cursor = _journal(host, "--lines=0", "--show-cursor").split("cursor: ")[1].strip()
    wire, cpu = _bytes(lab), _cpu(lab, host)
    yield counts
    counts.wire, counts.host_cpu = _bytes(lab) - wire, _cpu(lab, host) - cpu
    host.run(["journalctl", "--sync"])
    log = _journal(host, f"--after-cursor={cursor}")
    counts.connections = log.count("Accepted publickey")
    counts.execs = log.count("Starting session: ")


def _journal(host: Host, *words: str) -> str:
    return host.run(["journalctl", "--output=cat", "--identifier=sshd", "--identifier=sshd-session", *words]).stdout


def _bytes(lab: Lab) -> int:
    statistics = Path(f"/sys/class/net/{lab.network.link}/statistics")
    return sum(int((statistics / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


def _cpu(lab: Lab, host: Host) -> float:
    """Seconds of CPU of a host since its boot, from its cgroup (version 1, else 2)."""
    for folder in cgroups.make(lab.name, host.name):
        for name, pattern, unit in (("cpuacct.usage", r"(\d+)", 1e9), ("cpu.stat", r"usage_usec (\d+)", 1e6)):
            match = re.match(pattern, (folder / name).read_text()) if (folder / name).exists() else None
            if match:
                return int(match[1]) / unit
    return 0.0
