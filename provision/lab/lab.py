"""A whole lab: made, found again, taken down."""

import json
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from provision.lab import (
    acceleration,
    base,
    cgroups,
    emulation,
    keys,
    machine,
    models,
    network,
    paths,
    registry,
    sheet,
    site,
    virtual_host,
    vm_image,
)
from provision.lab.host import Host
from provision.lab.locks import locked
from provision.lab.shell import LabError
from provision.lab.spec import HostSpec, Spec
from provision.lab.virtual_host import VirtualHost


class Lab:
    """A lab that exists, running or not.

    Args:
        spec: the size and names of the lab.
        subnet: the number of its subnet.

    `Lab.up(spec)` makes a lab, `Lab.find(name)` finds a lab that was made.
    """

    def __init__(self, spec: Spec, subnet: int) -> None:
        self.spec = spec
        self.name = spec.name
        self.home = paths.STATE / spec.name
        self.network = network.Network(spec.name, subnet)
        self.inventory = self.home / "inventory.yaml"
        self.key = self.home / "id_ed25519"
        self.known_hosts = self.home / "known_hosts"

    @classmethod
    def up(cls, spec: Spec, *, install: bool = False, say: Callable[[str], None] = lambda _: None) -> "Lab":
        """Make the lab, or finish or enlarge the lab of the same name, and wait until every host answers.

        Args:
            spec: the wanted lab; number of cards, delay, release, packages and kind of hosts of an existing lab stay.
            install: install missing programs of the machine.
            say: called with a line before each long step.

        Raises:
            LabError: something is missing or failed; `down` cleans up.
        """
        machine.require_root()
        machine.require_programs(install=install, emulator=_emulator(vm=spec.vm))
        with locked(spec.name):
            lab = _registered(spec)
            cgroups.make(lab.name, "site")  # refuses a machine without device lists before the long steps begin
            _make_parts(lab.spec.release, say, lab.spec.packages)
            if lab.spec.vm:
                lab._require_machines(say)
            elif emulation.machine_factor() > 1:
                say(emulation.EXPLAINED)
            keys.ssh_key(lab.key, f"provision lab {lab.name}")
            lab.network.make()
            lab.network.connect(lab.spec.rtt, lab.home / "delay.log")
            site.start_servers(lab.network, lab.home, lab.spec.release, lab.spec.packages)
            with locked("_cache"):  # every lab's registry keeps its images there
                registry.publish(lab.network.site, lab.spec.release)
            lab.each(lambda host: host.start())
            sheet.write(lab.home, lab.spec, lab.network, lab.hosts())
            lab.each(lambda host: host.wait())
        return lab

    def _require_machines(self, say: Callable[[str], None]) -> None:
        """Make the image, tell about KVM, and refuse more machines than this machine has memory and disk for."""
        image = vm_image.ensure(self.spec.release, say)
        say(acceleration.explained(acceleration.acceleration(image)))
        fresh = [host for host in self.hosts() if not host.running]
        machine.require_memory(sum(map(virtual_host.needed_memory, (host.spec for host in fresh))))
        vm_image.require_room(self.home, virtual_host.DISK_GIB * len(fresh))

    @staticmethod
    def prepare(
        release: str, *, install: bool = False, vm: bool = False, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Make whatever takes long the first time, so that labs of the release come up quickly.

        Args:
            release: release of the hosts.
            install: install missing programs of the machine.
            vm: whether to make the image of virtual machines too.
            say: called with a line before each long step.

        Raises:
            LabError: something is missing or failed.
        """
        machine.require_root()
        machine.require_programs(install=install, emulator=_emulator(vm=vm))
        _make_parts(release, say)
        if vm:
            vm_image.ensure(release, say)

    @classmethod
    def find(cls, name: str) -> "Lab":
        """The lab of this name.

        Raises:
            LabError: there is no such lab.
        """
        machine.require_root()
        try:
            record = json.loads((paths.STATE / name / "lab.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError) as error:
            raise LabError(f"there is no lab {name!r}", "run `provision lab status`") from error
        return cls(Spec.from_json(record["spec"]), record["subnet"])

    @classmethod
    def all(cls) -> list["Lab"]:
        """Every lab of this machine, by name."""
        machine.require_root()
        labs = []
        for path in sorted(paths.STATE.glob("*/lab.json")):
            with suppress(LabError):  # a lab that goes down at this moment
                labs.append(cls.find(path.parent.name))
        return labs

    def down(self) -> None:
        """Take everything of the lab away: processes, namespaces, mounts, rules, files; settings go back."""
        machine.require_root()
        with locked(self.name):
            for group in (self.name, virtual_host.group(self.name)):
                cgroups.kill(group)
                cgroups.remove(group)
            self.network.remove()
            self._forget()
            with locked("_machine"):
                if not Lab.all():
                    network.restore_sysctls()
            with locked("_cache", wait=False) as ours:
                if ours:  # else another lab is being made right now
                    base.abandon()
            with locked("_vm", wait=False) as ours:
                if ours:
                    vm_image.abandon()

    def _forget(self) -> None:
        """Delete the lab's files, its record last: until then, `down` can be run again."""
        for path in self.home.iterdir() if self.home.exists() else ():
            if path.is_dir():
                base.discard(path)
            elif path.name != "lab.json":
                path.unlink()
        shutil.rmtree(self.home, ignore_errors=True)

    def hosts(self) -> list[Host]:
        """The hosts of the lab."""
        return [self._host(spec) for spec in self.spec.hosts()]

    def _host(self, spec: HostSpec) -> Host:
        home, release = self.home / "hosts" / spec.name, self.spec.release
        files = {**site.host_files(self.network), **sheet.card_files(self.spec, spec)}
        if self.spec.vm:
            return VirtualHost(spec, self.network, home, virtual_host.image_of(home, release), files)
        return Host(spec, self.network, home, base.path(release), files)

    def host(self, name: str) -> Host:
        """One host of the lab.

        Raises:
            LabError: the lab has no such host.
        """
        hosts = {host.name: host for host in self.hosts()}
        if name not in hosts:
            raise LabError(f"lab {self.name} has no host {name!r}", f"it has {', '.join(hosts)}")
        return hosts[name]

    def each(self, action: Callable[[Host], None], hosts: Iterable[Host] | None = None) -> None:
        """Do `action` on several hosts at once (all by default), and raise the first error after all have ended."""
        targets = list(self.hosts() if hosts is None else hosts)
        with ThreadPoolExecutor(max(1, min(8, len(targets)))) as pool:
            futures = [pool.submit(action, host) for host in targets]
        for future in futures:
            future.result()

    def save(self, label: str) -> None:
        """Shut every host down, keep its state under a label, and boot it again.

        Raises:
            LabError: the label is taken.
        """

        def keep(host: Host) -> None:
            host.shutdown()
            host.disk.save(label)
            host.start()
            host.wait()

        with locked(self.name):
            for host in self.hosts():
                host.disk.require(label, saved=False)
            self.each(keep)

    def restore(self, host: str | None = None, label: str = "") -> None:
        """Cut a host's power (every host's by default), put a saved state back, and boot it.

        Args:
            host: name of the host; None for all.
            label: a label that `save` was given; empty for the bare host of `up`.

        Raises:
            LabError: no such host or label.
        """

        def put_back(each: Host) -> None:
            each.stop()
            each.disk.restore(label)
            each.start()
            each.wait()

        with locked(self.name):
            targets = self.hosts() if host is None else [self.host(host)]
            for each in targets:
                each.disk.require(label, saved=True)
            self.each(put_back, targets)

    def cut(self, host: str) -> None:
        """Drop every packet from and to a host."""
        self.host(host).disturb("cut", on=True)

    def uncut(self, host: str) -> None:
        """Undo `cut`."""
        self.host(host).disturb("cut", on=False)

    def ssh(self, host: str, words: Iterable[str] = ()) -> list[str]:
        """The words that log in to a host as `ops`, or run words there."""
        options = ["-i", str(self.key), "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "IdentitiesOnly=yes"]
        # ssh's own first choice takes 90 ms of CPU at every login, for a secret that stays on this machine
        options += ["-o", "KexAlgorithms=curve25519-sha256"]
        return ["ssh", *options, f"ops@{self.host(host).address}", *words]


def _emulator(*, vm: bool) -> tuple[str, str] | None:
    """QEMU's program and the package with the program, where hosts are virtual machines."""
    return (vm_image.architecture().emulator, vm_image.architecture().package) if vm else None


def _make_parts(release: str, say: Callable[[str], None], packages: str = "") -> None:
    """Make the parts that all labs of a release (and of a folder of packages) share, unless the cache has them."""
    with locked("_cache"):
        base.ensure(release, say)
        registry.ensure()
        site.ensure(release, say, packages)
        models.ensure()


def _registered(spec: Spec) -> Lab:
    """The lab of this name; its record is written before any part of the lab is made."""
    paths.STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked("_machine"):
        home = paths.STATE / spec.name
        if (home / "lab.json").exists():
            old = Lab.find(spec.name)
            if spec.vm and not old.spec.vm:
                raise LabError(
                    f"the hosts of lab {spec.name} are containers, and stay containers",
                    f"choose another --name, or run `provision lab down --name {spec.name}` first",
                )
            spec = replace(
                old.spec,
                gpu_hosts=max(spec.gpu_hosts, old.spec.gpu_hosts),
                balancers=max(spec.balancers, old.spec.balancers),
            )
            subnet = old.network.subnet
        else:
            used = network.taken_subnets() | {lab.network.subnet for lab in Lab.all()}
            subnet = next(number for number in range(1, 251) if number not in used)
        home.mkdir(mode=0o700, exist_ok=True)
        partial = home / "lab.json.partial"
        partial.write_text(json.dumps({"spec": spec.to_json(), "subnet": subnet}))
        partial.rename(home / "lab.json")
    return Lab(spec, subnet)
