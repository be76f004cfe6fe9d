"""The hosts are virtual machines (`provision lab up --vm`), each with a kernel, systemd and AppArmor of its own. The
cases: the sequence of deploy, plan and verify; a daemon-reload behind running containers; a reboot; and power off in a
roll. SIMULATED, as in every lab: the cards, NVIDIA's toolkit, the model server. Base image, kernel and package
repositories come from the machine. nginx does too: a container of the machine compiles nginx once for each release."""

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from provision.lab import acceleration, models, vm_image
from provision.lab.lab import Lab
from provision.lab.shell import LabError
from tests.vm import builds
from tests.vm.carrier import FOLDER, KEEP, Carrier
from tests.vm.case import Case, Judged, ending
from tests.vm.guest import Said

MEMORY = 4.6
"""GiB for the three hosts of a part."""
GPU, ALL = ("gpu-01", "gpu-02"), ("gpu-01", "gpu-02", "lb-01")
_UPSTREAM = "/etc/provision/nginx/upstream.conf"
_WORK = "container:ollama"
_LENGTH = 8192
_CONFINED = 'cat "/proc/$(docker inspect --format "{{.State.Pid}}" ollama1)/attr/current"'


def of(release: str) -> Callable[[Carrier, Judged], Sequence[Case]]:
    """Return the function that lists the cases of hosts of a release."""

    def cases(_: Carrier, judge: Judged) -> Sequence[Case]:
        hosts = Hosts(release, judge)
        return [
            Case("hosts boot with a kernel and a systemd of their own", hosts.boot),
            Case("bare hosts become an endpoint", hosts.deploy),
            Case("a plan finds nothing to change", hosts.plan),
            Case("verify passes", hosts.verify),
            Case("facts, doctor and fit answer on hosts with kernels of their own", hosts.asked, alone=True),
            Case("AppArmor confines the containers", hosts.confined, alone=True),
            Case("a daemon-reload behind running containers takes nothing away", hosts.reloaded, alone=True),
            Case("after a reboot of all hosts everything serves again by itself", hosts.rebooted),
            Case("power off in a roll: the deploy ends with the name of the dead host", hosts.cut),
            Case("power off in a roll: the other host answers meanwhile", hosts.answers, alone=True),
            Case("power off in a roll: the next deploy mends the host", hosts.mended),
            Case("power off in a roll: verify, which plans first, passes", hosts.clean, alone=True),
            Case("lab down leaves no machine behind", hosts.down, alone=True),
        ]

    return cases


class Hosts:
    """The cases of a release, in order.

    Args:
        release: `bookworm` or `trixie`.
        judge: gets the version of the kernel.
    """

    def __init__(self, release: str, judge: Judged) -> None:
        self._release = release
        self._judge = judge
        self._name = f"vm-{release}"
        self._log = FOLDER / "output.log"
        self._inventory = FOLDER / f"{release}.yaml"

    def boot(self) -> str:
        """Boot two gpu hosts and a balancer."""
        kept = KEEP and self._exists()
        if not kept:
            self._remove()
        size = ("--gpu-hosts", "2", "--balancers", "1", "--gpus", "1")
        said = self._ran(
            "lab", "up", "--vm", "--install", "--name", self._name, "--release", self._release, *size, seconds=400
        )
        self._inventory.write_text(self._lab().inventory.read_text())
        told = [self._sh(host, "uname -r; stat -f -c %T /sys/fs/cgroup; cat /proc/1/comm").split() for host in ALL]
        boots = {self._boot_id(host) for host in ALL} | {Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
        assert len(boots) == len(ALL) + 1, "hosts share a kernel with each other or with this machine"
        for host, (_, kind, init) in zip(ALL, told, strict=True):
            assert (kind, init) == ("cgroup2fs", "systemd"), f"{host}: {kind}, {init}"
        self._judge.version = told[0][0]
        settled = self._settled()
        took = (
            "a lab that an earlier run left up"
            if kept
            else f"lab up --vm: {said.seconds:.0f} s, settled: {settled:.0f} s"
        )
        return f"{took}; kernels {', '.join(sorted({row[0] for row in told}))}, cgroup v2"

    def deploy(self) -> str:
        """The first deploy."""
        said = self._ran("deploy", "--yes", *self._where, seconds=600)
        return f"deploy: {said.seconds:.0f} s; {_last(said)}"

    def plan(self) -> str:
        """A plan after the deploy."""
        return _last(self._ran("plan", "--exit-code", *self._where, seconds=120))

    def verify(self) -> str:
        """Verify after the deploy."""
        return _last(self._ran("verify", *self._where, seconds=180))

    def asked(self) -> str:
        """Facts have kernel, Docker and card of each host; no check of doctor fails; fit proposes models."""
        known = {host["host"]: host["facts"] for host in self._document("facts")["hosts"]}
        for host in ALL:
            kernel = self._sh(host, "uname -r").strip()
            told = (known[host]["kernel"], known[host]["cgroup"], known[host]["docker"]["state"])
            assert told == (kernel, 2, "running" if host in GPU else "absent"), f"facts of {host}: {told}"
            counted = len(known[host]["cards"])
            assert counted == (host in GPU), f"facts of {host}: {counted} cards"
        examined = self._document("doctor", "--inventory", str(self._with_registry()))
        checks = [(host["host"], check) for host in examined["hosts"] for check in host["checks"]]
        failed = [f"{host}: {check['check']}: {check['says']}" for host, check in checks if check["verdict"] == "fail"]
        assert not failed, "; ".join(failed)
        assert {host for host, _ in checks} == set(ALL), "doctor left a host out"
        warned = sorted({check["check"] for _, check in checks if check["verdict"] == "warn"})
        places = {place["place"]: place["model"] for place in self._document("fit")["places"]}
        assert set(places) == {f"{host}/ollama1" for host in GPU}, places
        assert all(places.values()), places
        return f"{len(checks)} findings of doctor, warnings: {', '.join(warned) or 'none'}; fit proposes {places}"

    def confined(self) -> str:
        """The kernel enforces Docker's profile on the processes of the instances."""
        told = []
        for host in GPU:
            enabled = self._sh(host, "cat /sys/module/apparmor/parameters/enabled").strip()
            profile = self._sh(host, _CONFINED).strip()
            assert enabled == "Y", f"{host}: /sys/module/apparmor/parameters/enabled is {enabled!r}"
            assert profile == "docker-default (enforce)", f"{host}: the profile of ollama1 is {profile!r}"
            told.append(f"{host}/ollama1 {profile}")
        return ", ".join(told)

    def reloaded(self) -> str:
        """Containers run on with their cards and models, and verify, which plans first, sees no difference."""
        before = {host: self._containers(host) for host in GPU}
        for host in ALL:
            self._sh(host, "systemctl daemon-reload")
        after = {host: self._containers(host) for host in GPU}
        assert after == before, f"before: {before}; after: {after}"
        cards = {host: self._sh(host, "docker exec ollama1 nvidia-smi -L").strip().splitlines()[0] for host in GPU}
        assert all(line.startswith("GPU 0") for line in cards.values()), cards
        return f"the container of each host runs on, its card answers; {self.verify()}"

    def rebooted(self) -> str:
        """A reboot by systemd of all hosts; nobody types a command until everything serves."""
        before = {host: self._boot_id(host) for host in ALL}
        for host in ALL:
            self._sh(host, "systemd-run --quiet --on-active=1 systemctl reboot")  # the agent answers before it goes
        begun = time.monotonic()
        self._until(lambda: all(self._boot_id(host) not in {"", before[host]} for host in ALL), 240, "a new boot")
        booted = time.monotonic() - begun
        plan = ["plan", "--exit-code", *self._where]
        waiting = 240 * self._factor
        self._until(lambda: builds.provision(plan, self._log, waiting).code == 0, 240, "a plan without changes")
        serving = time.monotonic() - begun
        return f"new boots after {booted:.0f} s, a plan without changes after {serving:.0f} s; {self.verify()}"

    def cut(self) -> str:
        """Change a setting of all instances, and cut the power of the first host at work."""
        data: dict[str, Any] = yaml.safe_load(self._inventory.read_text())
        data["all"]["vars"]["ollama"]["context_length"] = _LENGTH
        self._inventory.write_text(yaml.safe_dump(data))
        said = len(self._log.read_text().splitlines())
        words, env = [sys.executable, "-m", "provision", "deploy", "--yes", *self._where], builds.environment()
        with self._log.open("a") as log, subprocess.Popen(words, stdout=log, stderr=log, env=env) as deploy:
            try:
                self._until(lambda: deploy.poll() is not None or self._at_work("gpu-01"), 240, "work on gpu-01")
                assert deploy.poll() is None, f"the deploy ended with exit code {deploy.returncode} before the cut"
                self._lab().host("gpu-01").stop()
                code = deploy.wait(300 * self._factor)
            finally:
                deploy.kill()
        # --max-fail allows no host by default; the guard counts the dead host unless the deploy was over already
        assert code in {4, 7}, f"the deploy ended with exit code {code}"
        told = self._log.read_text().splitlines()[said:]
        row = next((line for line in told if line.startswith("gpu-01  UNREACHABLE")), "")
        assert row, "the deploy names no unreachable gpu-01"
        return f"the power of gpu-01 went while {_WORK}1 was at work; exit code {code}, {' '.join(row.split())}"

    def answers(self) -> str:
        """The balancer has an answer from the other host."""
        address = self._lab().host("lb-01").address
        body = json.dumps({"model": "deepseek-r1:1.5b", "prompt": "Say yes.", "stream": False}).encode()
        request = urllib.request.Request(f"http://{address}:3008/api/generate", body)
        with urllib.request.urlopen(request, timeout=60 * self._factor) as answer:  # noqa: S310 - our own balancer
            instance, done = answer.headers.get("X-Instance", ""), json.loads(answer.read())["done"]
        assert done, "the answer has no end"
        assert instance.startswith("gpu-02/"), f"the answer came from {instance or 'nobody'}"
        return f"answered by {instance}"

    def mended(self) -> str:
        """The power comes back, and the same deploy again ends well."""
        host = self._lab().host("gpu-01")
        host.start()
        host.wait()
        said = self._ran("deploy", "--yes", "--lock-wait", "10m", *self._where, seconds=600)
        return f"deploy: {said.seconds:.0f} s; {_last(said)}"

    def clean(self) -> str:
        """All instances have the new setting, and no member is left out."""
        for host in GPU:
            env = self._sh(host, "docker inspect --format '{{.Config.Env}}' ollama1")
            assert f"OLLAMA_CONTEXT_LENGTH={_LENGTH}" in env, f"{host}/ollama1: {env}"
        out = [line for line in self._sh("lb-01", f"cat {_UPSTREAM}").splitlines() if " down;" in line]
        assert not out, f"the balancer leaves out {out}"
        return f"both instances have the new setting; {self.verify()}"

    def down(self) -> str:
        """No process, and no file of the lab."""
        home = self._lab().home
        if KEEP:
            return "the lab was kept: PROVISION_KEEP_VM is set"
        said = self._ran("lab", "down", "--name", self._name, seconds=60)
        listed = subprocess.run(
            ["pgrep", "--full", f"{home}/"], capture_output=True, text=True, check=False
        ).stdout.split()
        assert not home.exists(), f"{home.name} is still there"
        assert not listed, f"processes {listed} are left"
        return _last(said)

    @property
    def _where(self) -> tuple[str, str]:
        return "--inventory", str(self._inventory)

    @property
    def _factor(self) -> int:
        return acceleration.factor(acceleration.acceleration(vm_image.ensure(self._release, print)))

    def _with_registry(self) -> Path:
        """Write an inventory that names the lab's registry of models, because no name of the world outside resolves."""
        data: dict[str, Any] = yaml.safe_load(self._inventory.read_text())
        registry = f"{self._lab().network.site}:{models.PORT}"
        data["all"]["vars"].update(mirrors={"model_registry": registry}, models={"insecure": True})
        path = self._inventory.with_suffix(".doctor.yaml")
        path.write_text(yaml.safe_dump(data))
        return path

    def _document(self, command: str, *where: str) -> dict[str, Any]:
        """Return the JSON document of a command that only reads; the output may have lines of errors around it."""
        words = [command, "--json", *(where or self._where)]
        said = builds.provision(words, self._log, 180 * self._factor)
        begin, end = said.text.find("{"), said.text.rfind("}")
        assert begin >= 0, f"`provision {command}` ended with exit code {said.code}: {ending(said.text)}"
        document: dict[str, Any] = json.loads(said.text[begin : end + 1])
        why = "; ".join(host["why"] for host in document.get("hosts", ()) if host["result"] == "failed")
        assert said.code in {0, 5}, f"`provision {command}` ended with exit code {said.code}: {why}"
        return document

    def _lab(self) -> Lab:
        return Lab.find(self._name)

    def _exists(self) -> bool:
        try:
            return all(host.running for host in self._lab().hosts())
        except LabError:
            return False

    def _settled(self) -> float:
        """Wait until systemd has started everything, and return how long that took: a read before would be slow."""
        begun = time.monotonic()
        for host in ALL:
            self._lab().host(host).run(["systemctl", "is-system-running", "--wait"], check=False, timeout=120)
        return time.monotonic() - begun

    def _remove(self) -> None:
        """Take a lab away that a broken run left."""
        try:
            self._lab().down()
        except LabError:
            return

    def _sh(self, host: str, text: str) -> str:
        return self._lab().host(host).run(["sh", "-euc", text], timeout=60).stdout

    def _boot_id(self, host: str) -> str:
        try:
            return self._sh(host, "cat /proc/sys/kernel/random/boot_id").strip()
        except LabError:
            return ""  # the host is on its way down or up

    def _containers(self, host: str) -> str:
        shown = "{{.Name}} {{.Id}} {{.State.StartedAt}}"
        return self._sh(host, f"docker ps --no-trunc --quiet | sort | xargs docker inspect --format '{shown}'")

    def _at_work(self, host: str) -> bool:
        """Whether the newest run of a host is at work on a container."""
        text = 'tail -n 1 "$(ls -t /var/lib/provision/journal/*.jsonl | head -n 1)"'
        try:
            return f'"change", "step": "{_WORK}' in self._sh(host, text)
        except LabError:
            return False  # the guest agent of a busy host may be late

    def _until(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds * self._factor
        while not holds():
            assert time.monotonic() < deadline, f"no {what} within {seconds * self._factor:.0f} s"
            time.sleep(0.5)

    def _ran(self, *words: str, seconds: float) -> Said:
        return builds.passed(words, self._log, seconds * self._factor)


def _last(said: Said) -> str:
    return next((line for _, line in reversed(said.lines) if line.strip()), "no output")
