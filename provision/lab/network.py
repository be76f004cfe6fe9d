"""The lab's network: namespaces and virtual cables, unreachable from outside the machine.

    machine --(link, 10.x.y.254)-- [ lab's namespace: bridge, site at 10.x.y.1 ] --(one cable each)-- hosts

Every name carries the lab's name or subnet number, so that `remove` finds all parts after any crash.
"""

import json
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provision.lab import cgroups, machine, paths
from provision.lab.emulation import machine_factor
from provision.lab.shell import LabError, output, run, start

_MACHINE_FILE = ".machine.json"
# ip_forward: hosts reach the package mirror through the machine; inotify: a dozen systemds need more than the default.
_SYSCTLS = {"net.ipv4.ip_forward": 1, "fs.inotify.max_user_instances": 8192}


@dataclass(frozen=True)
class Network:
    """Names and addresses of one lab's network.

    Args:
        lab: name of the lab.
        subnet: number of its subnet, from 1 to 250; no two labs share a subnet.
    """

    lab: str
    subnet: int

    def address(self, number: int) -> str:
        """The lab's address that ends in `number`."""
        return f"10.213.{self.subnet}.{number}"

    @property
    def site(self) -> str:
        """Address of the site, which is the bridge's."""
        return self.address(1)

    @property
    def blobs(self) -> str:
        """The site's second address: Ollama downloads models only from another host than their registry."""
        return self.address(2)

    @property
    def gateway(self) -> str:
        """Address of the machine on the lab's network."""
        return self.address(254)

    @property
    def cidr(self) -> str:
        """The lab's whole subnet."""
        return f"{self.address(0)}/24"

    @property
    def link(self) -> str:
        """The machine's end of the cable to the lab."""
        return f"plab{self.subnet}"

    @property
    def netns(self) -> str:
        """The lab's own network namespace."""
        return f"plab.{self.lab}"

    def host_netns(self, host: str) -> str:
        """The network namespace of a host."""
        return f"plab.{self.lab}.{host}"

    def cable(self, number: int) -> str:
        """The bridge's end of the cable to the host whose address ends in `number`."""
        return f"h{number}"

    def mac(self, number: int) -> str:
        """The hardware address of the host whose address ends in `number`."""
        return f"02:d5:{self.subnet:02x}:00:00:{number:02x}"

    def make(self) -> None:
        """Make the lab's namespace, its bridge and the machine's rules; keep existing parts."""
        _raise_sysctls()
        if not (paths.NETNS / self.netns).exists():
            run(["ip", "netns", "add", self.netns])
        if not self._has("br0"):
            self._ip("link", "add", "br0", "type", "bridge")
            self._ip("address", "add", f"{self.site}/24", "dev", "br0")
        self._ip("address", "replace", f"{self.blobs}/24", "dev", "br0")
        for device in ("lo", "br0"):
            self._ip("link", "set", device, "up")
        for table, words in self._rules():
            if not _rule("-C", table, words):
                _rule("-I", table, words)

    def connect(self, rtt: float, log: Path) -> None:
        """Make the link to the machine, delayed by `rtt`; keep an existing link.

        Args:
            rtt: round-trip delay in milliseconds.
            log: file for the output of the delay line.
        """
        if not self._has("up0"):
            if rtt and not machine.has_netem():
                self._start_delay_line(rtt, log)
            else:
                self._plug_cable(rtt)
        self._ip("link", "set", "up0", "master", "br0", "up")
        run(["ip", "address", "replace", f"{self.gateway}/24", "dev", self.link])
        run(["ip", "link", "set", self.link, "up"])
        self._ip("route", "replace", "default", "via", self.gateway)

    def _plug_cable(self, rtt: float) -> None:
        run(["ip", "link", "add", self.link, "type", "veth", "peer", "name", "up0", "netns", self.netns])
        if rtt:
            netem = ["root", "netem", "delay", f"{rtt / 2}ms", "limit", "100000"]
            run(["tc", "qdisc", "add", "dev", self.link, *netem])
            run(["tc", "-netns", self.netns, "qdisc", "add", "dev", "up0", *netem])

    def _start_delay_line(self, rtt: float, log: Path) -> None:
        line = str(Path(__file__).with_name("delay.py"))
        words = [sys.executable, "-I", line, str(paths.NETNS / self.netns), "up0", self.link, str(rtt / 2000)]
        start(words, cgroups=cgroups.make(self.lab, "delay"), log=log)
        deadline = time.monotonic() + 10 * machine_factor()
        while not self._has("up0"):
            if time.monotonic() > deadline:
                raise LabError(f"the delay line did not start: {log.read_text()[-1000:]}", "is /dev/net/tun there?")
            time.sleep(0.02)

    def add_host(self, host: str, number: int) -> None:
        """Give a host a fresh namespace, cabled to the bridge as eth0."""
        self.remove_host(host)
        netns, cable = self.host_netns(host), self.cable(number)
        # The kernel takes a deleted namespace apart in its own time, and the cable with the namespace.
        run(["ip", "-netns", self.netns, "link", "delete", cable], check=False)
        run(["ip", "netns", "add", netns])
        mac = self.mac(number)
        self._ip(
            "link",
            "add",
            cable,
            "master",
            "br0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "address",
            mac,
            "netns",
            netns,
        )
        self._ip("link", "set", cable, "up")
        for words in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{self.address(number)}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("route", "add", "default", "via", self.gateway),
        ):
            run(["ip", "-netns", netns, *words])

    def add_tap(self, number: int) -> None:
        """Give a virtual machine a cable to the bridge; the far end is QEMU's."""
        cable = self.cable(number)
        self.remove_tap(number)
        self._ip("tuntap", "add", "dev", cable, "mode", "tap")
        self._ip("link", "set", cable, "master", "br0", "up")

    def remove_tap(self, number: int) -> None:
        """Delete the cable of a virtual machine."""
        run(["ip", "-netns", self.netns, "link", "delete", self.cable(number)], check=False)

    def remove_host(self, host: str) -> None:
        """Delete a host's namespace, its cable, and every rule and bridge that Docker made in the namespace."""
        run(["ip", "netns", "delete", self.host_netns(host)], check=False)

    def remove(self) -> None:
        """Delete every part of the lab's network, from all runs."""
        for namespace in paths.NETNS.glob("plab.*") if paths.NETNS.exists() else ():
            if namespace.name == self.netns or namespace.name.startswith(f"{self.netns}."):
                run(["ip", "netns", "delete", namespace.name], check=False)
        run(["ip", "link", "delete", self.link], check=False)
        for table, words in self._rules():
            while _rule("-C", table, words) and _rule("-D", table, words):
                pass

    def disturb(self, host: str, kind: str, *, on: bool) -> None:
        """Start or stop disturbing every packet of a host.

        Args:
            host: name of the host.
            kind: a key of `DISTURBANCES`.
            on: whether the disturbance is on from now on.
        """
        for words in DISTURBANCES[kind]:
            _switch(self.host_netns(host), words, on=on)

    def plug(self, number: int, *, on: bool) -> None:
        """Plug a host's cable in, or out: without a cable eth0 has no carrier.

        Args:
            number: the last number of the host's address.
            on: whether the cable is in from now on.
        """
        self._ip("link", "set", self.cable(number), "up" if on else "down")

    def disturbed(self, host: str, kind: str) -> bool:
        """Whether a disturbance of this kind is on for a host."""
        return _there(self.host_netns(host), DISTURBANCES[kind][0])

    def close(self, port: int, *, on: bool) -> None:
        """Refuse (or stop refusing) connections to a port of the site."""
        _switch(self.netns, self._closed(port), on=on)

    def closed(self, port: int) -> bool:
        """Whether a port of the site is refused now."""
        return _there(self.netns, self._closed(port))

    def _closed(self, port: int) -> list[str]:
        return ["filter", "INPUT", "-p", "tcp", "--dport", str(port), "-j", "REJECT", "--reject-with", "tcp-reset"]

    def _rules(self) -> list[tuple[str, list[str]]]:
        """Table and words of each rule of ours on the machine: NAT out, answers back in, nothing else in."""
        mark = ["-m", "comment", "--comment", f"provision-lab:{self.lab}"]
        state = ["-m", "conntrack", "--ctstate"]
        return [
            ("nat", ["POSTROUTING", "-s", self.cidr, "!", "-d", self.cidr, *mark, "-j", "MASQUERADE"]),
            ("filter", ["FORWARD", "-i", self.link, "!", "-o", "plab+", *mark, "-j", "ACCEPT"]),
            ("filter", ["FORWARD", "-o", self.link, *state, "ESTABLISHED,RELATED", *mark, "-j", "ACCEPT"]),
            ("filter", ["FORWARD", "-o", self.link, *state, "NEW", *mark, "-j", "DROP"]),
        ]

    def _has(self, device: str) -> bool:
        return run(["ip", "-netns", self.netns, "link", "show", device], check=False).returncode == 0

    def _ip(self, *words: str) -> None:
        run(["ip", "-netns", self.netns, *words])


# Disturbances of a host's packets: table, chain and rule, in the host's own namespace.
DISTURBANCES = {
    "cut": [
        ["mangle", "PREROUTING", "-i", "eth0", "-j", "DROP"],
        ["mangle", "POSTROUTING", "-o", "eth0", "-j", "DROP"],
    ],
    "lossy": [
        [
            "mangle",
            "PREROUTING",
            "-i",
            "eth0",
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            "0.2",
            "-j",
            "DROP",
        ],
    ],
    "ssh-reset": [
        ["filter", "INPUT", "-p", "tcp", "--dport", "22", "-j", "REJECT", "--reject-with", "tcp-reset"],
    ],
}


def _there(netns: str, words: list[str]) -> bool:
    table, chain, *rule = words
    enter = ["nsenter", f"--net={paths.NETNS / netns}", "iptables", "-w", "-t", table]
    return run([*enter, "-C", chain, *rule], check=False).returncode == 0


def _switch(netns: str, words: list[str], *, on: bool) -> None:
    table, chain, *rule = words
    if _there(netns, words) != on:
        enter = ["nsenter", f"--net={paths.NETNS / netns}", "iptables", "-w", "-t", table]
        run([*enter, "-I" if on else "-D", chain, *rule])


def _rule(action: str, table: str, words: list[str]) -> bool:
    """Do `action` (-C, -I, -D) with a rule; whether iptables agreed."""
    return run(["iptables", "-w", "-t", table, action, *words], check=action == "-I").returncode == 0


def taken_subnets() -> set[int]:
    """Numbers N of 10.213.N.0/24 for which the machine has a route or an address."""
    numbers = set()
    for entry in json.loads(output(["ip", "-json", "route", "show", "table", "all"]) or "[]"):
        parts = str(entry.get("dst", "")).split("/")[0].split(".")
        if parts[:2] == ["10", "213"] and len(parts) > 2:
            numbers.add(int(parts[2]))
    return numbers


def restore_sysctls() -> None:
    """Put every kernel setting back that a lab raised, after the last lab went down."""
    record = paths.STATE / _MACHINE_FILE
    if not record.exists():
        return
    for name, value in json.loads(record.read_text()).items():
        with suppress(OSError):
            _sysctl(name).write_text(str(value))
    record.unlink()


def _raise_sysctls() -> None:
    record = paths.STATE / _MACHINE_FILE
    before = json.loads(record.read_text()) if record.exists() else {}
    for name, least in _SYSCTLS.items():
        now = int(_sysctl(name).read_text())
        if now < least:
            before.setdefault(name, now)
            record.write_text(json.dumps(before))
            _sysctl(name).write_text(str(least))


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")
