"""The lab's network: namespaces and virtual cables, nothing of which can be reached from outside the machine.

    machine --(link, 10.x.y.254)-- [ lab's namespace: bridge, site at 10.x.y.1 ] --(one cable each)-- hosts

Every name carries the lab's name or subnet number, so that `remove` finds all of it after any crash.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from provision.lab import paths
from provision.lab.shell import output, run

_MACHINE_FILE = ".machine.json"
# ip_forward: hosts reach the package mirror through us; inotify: a dozen systemds need more than the default.
_SYSCTLS = {"net.ipv4.ip_forward": 1, "fs.inotify.max_user_instances": 8192}


@dataclass(frozen=True)
class Network:
    """Names and addresses of one lab's network.

    Args:
        lab: name of the lab.
        subnet: its number, from 1 to 250; no two labs share one.
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

    def make(self, rtt: float) -> None:
        """Make the lab's namespace, its bridge, the link to the machine and the way out; keep what is there."""
        _raise_sysctls()
        if not (paths.NETNS / self.netns).exists():
            run(["ip", "netns", "add", self.netns])
        if not self._has("br0"):
            self._ip("link", "add", "br0", "type", "bridge")
            self._ip("address", "add", f"{self.site}/24", "dev", "br0")
        for words in (("lo", "up"), ("br0", "up")):
            self._ip("link", "set", *words)
        if rtt == 0 and not self._has("up0"):
            run(["ip", "link", "add", self.link, "type", "veth", "peer", "name", "up0", "netns", self.netns])
        if rtt == 0:
            self.plug()
        for table, words in self._rules():
            if not _rule("-C", table, words):
                _rule("-I", table, words)

    def plug(self) -> None:
        """Address and raise both ends of the link, whatever made them (a cable, or the delay line's TAPs)."""
        self._ip("link", "set", "up0", "master", "br0", "up")
        run(["ip", "address", "replace", f"{self.gateway}/24", "dev", self.link])
        run(["ip", "link", "set", self.link, "up"])
        self._ip("route", "replace", "default", "via", self.gateway)

    def add_host(self, host: str, number: int) -> None:
        """Give a host a fresh namespace, cabled to the bridge as eth0."""
        self.remove_host(host)
        netns, cable = self.host_netns(host), f"h{number}"
        run(["ip", "netns", "add", netns])
        mac = f"02:d5:{self.subnet:02x}:00:00:{number:02x}"
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

    def remove_host(self, host: str) -> None:
        """Delete a host's namespace, and with it its cable and every rule and bridge that Docker made there."""
        run(["ip", "netns", "delete", self.host_netns(host)], check=False)

    def remove(self) -> None:
        """Delete everything of this lab's network, made by whichever run."""
        for namespace in paths.NETNS.glob("plab.*") if paths.NETNS.exists() else ():
            if namespace.name == self.netns or namespace.name.startswith(f"{self.netns}."):
                run(["ip", "netns", "delete", namespace.name], check=False)
        run(["ip", "link", "delete", self.link], check=False)
        for table, words in self._rules():
            while _rule("-C", table, words) and _rule("-D", table, words):
                pass

    def cut(self, host: str, *, on: bool) -> None:
        """Drop (or stop dropping) every packet from and to a host, without a word to either side."""
        base = ["nsenter", f"--net={paths.NETNS / self.host_netns(host)}", "iptables", "-w", "-t", "mangle"]
        for rule in (["PREROUTING", "-i", "eth0", "-j", "DROP"], ["POSTROUTING", "-o", "eth0", "-j", "DROP"]):
            there = run([*base, "-C", *rule], check=False).returncode == 0
            if on != there:
                run([*base, "-I" if on else "-D", *rule])

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


def _rule(action: str, table: str, words: list[str]) -> bool:
    """Do `action` (-C, -I, -D) with a rule and say whether iptables agreed."""
    return run(["iptables", "-w", "-t", table, action, *words], check=action == "-I").returncode == 0


def taken_subnets() -> set[int]:
    """Numbers of 10.213.N.0/24 that the machine already has a route or an address for."""
    found = set()
    for entry in json.loads(output(["ip", "-json", "route", "show", "table", "all"]) or "[]"):
        parts = str(entry.get("dst", "")).split("/")[0].split(".")
        if parts[:2] == ["10", "213"] and len(parts) > 2:
            found.add(int(parts[2]))
    return found


def restore_sysctls() -> None:
    """Put every kernel setting back that a lab raised. For the last lab that goes down."""
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
    for name, wanted in _SYSCTLS.items():
        now = int(_sysctl(name).read_text())
        if now < wanted:
            before.setdefault(name, now)
            record.write_text(json.dumps(before))
            _sysctl(name).write_text(str(wanted))


def _sysctl(name: str) -> Path:
    return Path("/proc/sys") / name.replace(".", "/")
