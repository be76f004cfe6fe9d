"""A lab for the tests on real hosts, deployed once, and restored by discarding overlays where a test left it broken.

tests/conftest.py takes its fixtures from here, so that tests/lab and tests/faults share one lab per session.
"""

import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.lab.emulation import machine_factor
from provision.lab.lab import Lab
from provision.lab.shell import LabError
from provision.lab.spec import Spec
from tests.starter import Starter, needs_a_start

# For work on the tests: a lab of another name, kept up between sessions. Every worker of pytest-xdist has its own lab.
NAME = "-".join(filter(None, [os.environ.get("PROVISION_LAB_NAME", "test"), os.environ.get("PYTEST_XDIST_WORKER")]))
KEEP = bool(os.environ.get("PROVISION_KEEP_LAB"))
DEPLOYED = "deployed"
FAILED = pytest.StashKey[bool]()


@dataclass(repr=False)
class Done:
    """The result of one command of ours."""

    code: int
    out: str
    err: str

    @property
    def doc(self) -> dict[str, Any]:
        """The JSON document on stdout, which must hold nothing else."""
        return json.loads(self.out)

    def host(self, name: str) -> dict[str, Any]:
        """One host of the document."""
        return next(host for host in self.doc["hosts"] if host["host"] == name)

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out[-6000:]}\n{self.err[-6000:]}"


@functools.cache
def starter() -> Starter:
    """Starts the commands of this process's tests."""
    return Starter()


class Fleet:
    """The shared lab with an inventory of the test's own.

    Args:
        lab: the lab.
        folder: folder for the inventory.
    """

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.data: dict[str, Any] = yaml.safe_load(Path(lab.inventory).read_text())

    def command(self, *words: str) -> list[str]:
        """Write the inventory as it now is, and return the words of a command on it."""
        path = self.folder / "inventory.yaml"
        path.write_text(yaml.safe_dump(self.data))
        return [sys.executable, "-m", "provision", *words, "--inventory", str(path)]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the commands. The store of builds lives as long as the lab: nginx is compiled at most once."""
        return {**os.environ, "XDG_CACHE_HOME": str(self.lab.home / "cache")}

    def provision(self, *words: str, env: dict[str, str] | None = None, timeout: float = 600) -> Done:
        """Run a command of ours on the inventory as it now is; `timeout` is for a machine that is not emulated."""
        timeout *= machine_factor()
        argv, environment = self.command(*words), {**self.environment, **(env or {})}
        if needs_a_start(env or {}):
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=timeout, env=environment, stdin=subprocess.DEVNULL
            )
        else:
            done = starter().run(argv[3:], environment, timeout)
        return Done(done.returncode, done.stdout, done.stderr)

    def plan(self, *words: str) -> Done:
        """`plan --json`, which must succeed."""
        done = self.provision("plan", "--json", *words)
        assert done.code == 0, done
        return done

    def changes(self, *words: str) -> dict[str, list[str]]:
        """Host -> ids of the steps that a plan would change."""
        return {host["host"]: [c["step"] for c in host["changes"]] for host in self.plan(*words).doc["hosts"]}

    def deploy(self, *words: str) -> Done:
        """`deploy --json`, which must succeed."""
        done = self.provision("deploy", "--yes", "--json", *words)
        assert done.code == 0, done
        return done

    def on(self, host: str, *words: str) -> str:
        """Run words on a host as root, and return their output."""
        return self.lab.host(host).run(words, timeout=300).stdout

    @property
    def vars(self) -> dict[str, Any]:
        """The variables of all hosts."""
        return self.data["all"]["vars"]

    def hosts(self, group: str) -> dict[str, Any]:
        """The hosts of a group in the inventory."""
        return self.data["all"]["children"][group]["hosts"]

    def address(self, host: str) -> str:
        """A host's address."""
        return self.lab.host(host).address


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.session.stash[FAILED] = True
    return report


@pytest.fixture(scope="session")
def lab():
    """Two gpu hosts with two simulated cards each, and a balancer; taken down afterwards, whatever happens."""
    with contextlib.suppress(LabError):
        if not KEEP:
            Lab.find(NAME).down()
    made = Lab.up(Spec(NAME, 2, 1, 2), install=True)
    try:
        yield made
    finally:
        if not KEEP:
            made.down()


@pytest.fixture(scope="session")
def builds(tmp_path_factory):
    """A folder for builds, so that of all labs in a session only the first compiles."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "builds"


@pytest.fixture(scope="session")
def first_deploy(lab, builds, tmp_path_factory):
    """The first deploy on bare hosts, with its result."""
    fleet = Fleet(lab, tmp_path_factory.mktemp("first"))
    kept = lab.home / "first_deploy.json"
    if kept.exists():
        return Done(0, kept.read_text(), "")
    with _compiled_once(builds, lab.home / "cache"):
        done = fleet.provision("deploy", "--yes", "--json", timeout=900)
        assert done.code == 0, (done, _boots(fleet))
    lab.save(DEPLOYED)
    settle(fleet)
    kept.write_text(done.out)
    return done


@contextlib.contextmanager
def _compiled_once(builds: Path, cache: Path) -> Iterator[None]:
    """Let the first deploying lab of a session compile nginx, and give the build to the stores of the other labs."""
    with builds.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if builds.exists():
            shutil.copytree(builds, cache, dirs_exist_ok=True)
            fcntl.flock(lock, fcntl.LOCK_UN)
        yield
        if not builds.exists():
            shutil.copytree(cache, builds)


def settle(fleet: Fleet) -> None:
    """Wait until booted hosts serve again without help."""
    fleet.data = yaml.safe_load(Path(fleet.lab.inventory).read_text())
    # Waiting for the boot costs nothing; a plan meanwhile would slow the boot down.
    fleet.lab.each(lambda host: host.run(["systemctl", "is-system-running", "--wait"], check=False) and None)
    # While Docker starts on a busy machine a plan may fail, so the loop asks again.
    deadline = time.monotonic() + 600 * machine_factor()
    while (done := fleet.provision("plan", "--exit-code")).code:
        assert time.monotonic() < deadline, (done, _boots(fleet))
        time.sleep(1)


def _boots(fleet: Fleet) -> str:
    """The log of our units on the hosts since the boot."""
    units = [word for unit in ("docker", "provision-firewall", "provision-instances") for word in ("-u", unit)]
    words = ["journalctl", "-b", "-q", "--no-pager", "-o", "short-monotonic", "-n", "25", *units]
    return "\n".join(f"{host.name}\n{host.run(words, check=False).stdout}" for host in fleet.lab.hosts())


def wait_for(holds: Callable[[], bool], seconds: float = 600) -> None:
    """Wait until a condition holds that a host reaches by itself; fail if it does not hold in time."""
    deadline = time.monotonic() + seconds * machine_factor()
    while not holds():
        assert time.monotonic() < deadline, "the hosts did not reach the condition by themselves"
        time.sleep(1)


def serves_again(fleet: Fleet, *hosts: str) -> None:
    """Wait until a plan has nothing to change on booted hosts, or on all. While Docker starts a plan may fail."""

    def is_as_declared() -> bool:
        done = fleet.provision("plan", "--json")
        rows = done.doc["hosts"] if done.code == 0 else []
        return bool(rows) and not any(row["changes"] for row in rows if not hosts or row["host"] in hosts)

    wait_for(is_as_declared)


def at_work(fleet: Fleet, step: str, then: str = ":", host: str = "gpu-01") -> None:
    """Wait until a host is at work on a step of the newest run, and then run a script there.

    The run's own output comes earlier: the run may first have to tell a balancer, and a run stopped by then leaves no
    trace.
    """
    last = 'tail -n 1 "$(ls -t /var/lib/provision/journal/*.jsonl | head -n 1)"'
    seen = f'{last} | grep -qF \'"change", "step": "{step}"\''
    text = f"for _ in $(seq 3000); do if {seen}; then {then}; exit; fi; sleep 0.02; done; echo never at work; exit 1"
    fleet.on(host, "sh", "-c", text)


@pytest.fixture
def fleet(lab, first_deploy, tmp_path, request):
    """The deployed fleet. A test leaves the fleet as it was; after a failed test the fleet is restored."""
    fresh = Fleet(lab, tmp_path)
    yield fresh
    if request.session.stash.get(FAILED, False):
        request.session.stash[FAILED] = False
        lab.restore(label=DEPLOYED)
        settle(fresh)


@pytest.fixture
def scratch(fleet, lab):
    """The deployed fleet for a test that leaves it changed: every host is restored afterwards."""
    yield fleet
    lab.restore(label=DEPLOYED)
    settle(fleet)
