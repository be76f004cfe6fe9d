"""The lab of a bench, booted for the bench and removed whatever happens."""

import contextlib
import copy
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from provision.lab import cgroups, keys, machine
from provision.lab.lab import Lab
from provision.lab.shell import LabError, run
from provision.lab.spec import Spec
from tests.bench.measure import expect, measured

# sshd lets many connections in at once, and logs every exec for the count.
_SSHD = "MaxStartups 1000\nLogLevel VERBOSE\n"
_RECORDER = """\
#!/bin/sh
# Stands in for the login shell of one key: does what is asked, and keeps what was said in both directions.
mkdir "/var/tmp/recorded.$$" && cd "/var/tmp/recorded.$$" || exit
printf '%s' "$SSH_ORIGINAL_COMMAND" >command
tee stdin | sh -c "$SSH_ORIGINAL_COMMAND" >stdout 2>stderr
code=$?
cat stdout; cat stderr >&2
exit $code
"""


class Fleet:
    """Gpu hosts that each balance over their own two instances.

    Args:
        lab: the lab.
        names: the inventory's names of the hosts; by default the lab's names.
    """

    def __init__(self, lab: Lab, names: Sequence[str] = ()) -> None:
        self.lab = lab
        self.folder = lab.home / "bench"
        self.folder.mkdir(exist_ok=True)
        self.document: dict[str, Any] = yaml.safe_load(lab.inventory.read_text())
        group = self.document["all"]["children"]["gpu"]
        group["hosts"] = dict(zip(names or group["hosts"], group["hosts"].values(), strict=True))
        self.inventory = self.write("inventory", self.document)

    def write(self, name: str, document: dict[str, Any]) -> Path:
        """Write an inventory."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return path

    def provision(self, *words: str, inventory: Path | None = None) -> list[str]:
        """The words of a command of ours, on this fleet's inventory by default."""
        return [sys.executable, "-m", "provision", *words, "-i", str(inventory or self.inventory)]

    def deployed(self) -> None:
        """Deploy, and make sure that a second plan has nothing to change.

        Raises:
            BenchError: a plan still has changes.
        """
        for words in (("deploy", "--yes"), ("plan", "--exit-code")):
            expect(measured(self.provision(*words)))

    def prepared(self) -> None:
        """Make every host's sshd let many connections in, and log every exec."""
        for host in self.lab.hosts():
            host.write("/etc/ssh/sshd_config.d/bench.conf", _SSHD)
            host.run(["systemctl", "restart", "ssh"])

    def recorded(self) -> dict[str, list[dict[str, bytes]]]:
        """Our own no-op read: the execs of every host and their answers, recorded on the hosts.

        Returns:
            for the address of each host its execs, with `command`, `stdin`, `stdout` and `stderr`.
        """
        document = copy.deepcopy(self.document)
        document["all"]["vars"]["ansible_ssh_private_key_file"] = str(self.forced("record", _RECORDER))
        for host in self.lab.hosts():
            host.run(["sh", "-c", "rm -rf /var/tmp/recorded.*"])
        expect(measured(self.provision("plan", "--exit-code", inventory=self.write("record", document))))
        return {host.address: _recordings(host.disk.root) for host in self.lab.hosts()}

    def forced(self, name: str, script: str) -> Path:
        """A key that may only run this script on the hosts, whatever command is asked for.

        Args:
            name: the key's name.
            script: a shell script.
        """
        key = self.folder / name
        public = keys.ssh_key(key, name)
        for host in self.lab.hosts():
            host.write(f"/usr/local/lib/bench-{name}", script, 0o755)
            line = f'command="/usr/local/lib/bench-{name}",no-pty {public}'
            host.run(["tee", "-a", "/home/ops/.ssh/authorized_keys"], stdin=f"{line}\n")
        return key


def _recordings(root: Path) -> list[dict[str, bytes]]:
    folders = sorted((root / "var/tmp").glob("recorded.*"), key=lambda path: path.stat().st_mtime_ns)
    return [{path.name: path.read_bytes() for path in sorted(folder.iterdir())} for folder in folders]


@contextlib.contextmanager
def taken_down(name: str) -> Iterator[None]:
    """Remove a lab before, and afterwards whatever happens, also after Ctrl-C and SIGTERM.

    Args:
        name: name of the lab.
    """

    def end(number: int, _: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    gone(name)
    try:
        yield
    finally:
        gone(name)


def booted(name: str, hosts: int, say: Callable[[str], None]) -> Lab:
    """A lab of gpu hosts with two cards each; an existing lab is enlarged.

    Args:
        name: name of the lab.
        hosts: number of hosts.
        say: called with a line before each long step.
    """
    return Lab.up(Spec(name, hosts, 0, 2, release=machine.default_release()), install=True, say=say)


def gone(name: str) -> None:
    """Remove a lab, if there is a lab of this name."""
    with contextlib.suppress(LabError):
        Lab.find(name).down()


def delay(lab: Lab, rtt: float) -> None:
    """Give a running lab another round-trip delay.

    Args:
        lab: the lab.
        rtt: round-trip delay in milliseconds.
    """
    cgroups.kill(lab.name, "delay")
    run(["ip", "link", "delete", lab.network.link], check=False)
    while Path(f"/sys/class/net/{lab.network.link}").exists():
        time.sleep(0.05)
    lab.network.connect(rtt, lab.home / "delay.log")
