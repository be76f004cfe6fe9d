"""The guide's set-up: one machine, two instances on 3001 and 3002, the balancer on 3008, seven lines of inventory."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from provision.lab.host import Host
from provision.lab.lab import Lab
from provision.lab.spec import Spec

from . import programs

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def machine():
    made = Lab.up(Spec("one", 1, 0, 2), install=True)
    try:
        yield made
    finally:
        made.down()


@dataclass
class Setup:
    """The machine, and README's inventory for it.

    Args:
        host: the machine.
        link: the host's network interface, for its byte counters.
        text: the inventory.
        path: the file with the inventory.
        words: further words of every command.
        env: environment of the commands.
    """

    host: Host
    link: Path
    text: str
    path: Path
    words: tuple[str, ...]
    env: dict[str, str]

    def provision(self, *words):
        """Run a command of ours, which must succeed."""
        argv = [sys.executable, "-m", "provision", *words, "-i", str(self.path), *self.words]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=600, stdin=subprocess.DEVNULL, env=self.env
        )
        assert done.returncode == 0, done
        return done

    def weighted(self, weight):
        """Write the inventory with this weight of the first instance."""
        self.path.write_text(self.text.replace("{gpus: [0]}", f"{{gpus: [0], weight: {weight}}}"))

    def bytes(self):
        """All bytes sent and received so far, headers included."""
        return sum(int((self.link / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


@pytest.fixture(scope="module")
def setup(machine, builds, tmp_path_factory):
    """README's inventory as printed, with the lab's address; settings that only the lab needs come by -e."""
    folder = tmp_path_factory.mktemp("one")
    text = next(
        block for block in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL) if "one-machine" in block
    )
    host = machine.hosts()[0]
    text = re.sub(r"ansible_host: [\w.]+", f"ansible_host: {host.address}", text)
    path, vars_only = folder / "one.yaml", folder / "lab.yaml"
    path.write_text(text)
    vars_only.write_text(json.dumps(_lab_vars(machine)))
    if builds.exists():
        shutil.copytree(builds, folder / "cache")
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    link = Path(f"/sys/class/net/{machine.network.link}/statistics")
    return Setup(host, link, text, path, ("-e", f"@{vars_only}"), environment)


def test_seven_lines_are_enough(setup):
    lines = [line for line in setup.text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 7
    host = setup.host
    setup.provision("deploy", "--yes")
    setup.provision("verify")
    ports = host.run(["docker", "ps", "--format", "{{.Ports}}"]).stdout
    assert ("127.0.0.1:3001->" in ports, "127.0.0.1:3002->" in ports) == (True, True)
    rules = host.run(["iptables", "-S", "PROVISION"]).stdout
    assert "! -i docker0 -o docker0" in rules, "a neighbour could reach the containers by their own addresses"
    body = json.dumps({"model": "deepseek-r1:1.5b", "prompt": "hello", "options": {"num_predict": 3}}).encode()
    request = urllib.request.Request(f"http://{host.address}:3008/api/generate", body)
    seen = set()
    for _ in range(4):
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - the lab
            seen.add(answer.headers["X-Instance"])
            assert json.loads(answer.read().splitlines()[-1])["done"]
    assert len(seen) == 2


@dataclass(frozen=True)
class Most:
    """The greatest cost of a run on a host with Docker, two instances and a balancer.

    Args:
        kilobytes: kilobytes over the wire, headers included.
        execs: execs over its one login.
        programs: programs that the host starts, also inside containers.
        docker: starts of Docker's client among the programs.
        nvidia_smi: starts of nvidia-smi among the programs.
    """

    kilobytes: int
    execs: int
    programs: int
    docker: int
    nvidia_smi: int


WHOLE = Most(kilobytes=60, execs=1, programs=145, docker=3, nvidia_smi=4)
BALANCER = Most(kilobytes=30, execs=1, programs=53, docker=0, nvidia_smi=1)
WEIGHT = Most(kilobytes=110, execs=3, programs=400, docker=3, nvidia_smi=4)
WEIGHT_ALONE = Most(kilobytes=75, execs=3, programs=290, docker=0, nvidia_smi=1)


@pytest.mark.parametrize(
    ("words", "weight", "most"),
    [
        (("plan", "--exit-code"), None, WHOLE),
        (("plan", "--exit-code", "--tags", "balancer"), None, BALANCER),
        (("deploy", "--yes"), 2, WEIGHT),
        (("deploy", "--yes", "--tags", "balancer"), 1, WEIGHT_ALONE),
    ],
    ids=["whole", "balancer", "weight", "weight and balancer"],
)
def test_a_run_costs_no_more_than_it_did(setup, tmp_path, words, weight, most):
    """The whole host is read once; after a change of the balancer no Docker, no container and no card is read."""
    if weight:
        setup.weighted(weight)
    elif setup.path.read_text() == setup.text:
        setup.provision("deploy", "--yes")
    setup.host.run(["journalctl", "--sync"])
    cursor = setup.host.run(["journalctl", "--quiet", "--lines=0", "--show-cursor"]).stdout.partition("cursor: ")[2]
    before = setup.bytes()
    with programs.started(setup.host, tmp_path) as started:
        setup.provision(*words)
    wire = setup.bytes() - before
    setup.host.run(["journalctl", "--sync"])
    said = setup.host.run(["journalctl", "--quiet", "--output=cat", f"--after-cursor={cursor.strip()}"]).stdout
    execs = sum(line.endswith("COMMAND=/usr/bin/sh -s") for line in said.splitlines())
    assert (execs, said.count("Accepted publickey")) == (most.execs, 1)
    assert wire <= most.kilobytes * 1000
    assert started["docker"] <= most.docker, started
    assert started["nvidia-smi"] <= most.nvidia_smi, started
    assert sum(started.values()) <= most.programs, started


def _lab_vars(machine):
    import yaml

    given = yaml.safe_load(Path(machine.inventory).read_text())["all"]["vars"]
    given["ollama"].pop("models", None)
    return given
