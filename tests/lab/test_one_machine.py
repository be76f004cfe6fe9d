"""The guide's set-up: one machine, two instances on 3001 and 3002, the balancer on 3008, six lines of inventory."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from provision.lab.lab import Lab
from provision.lab.spec import Spec

pytestmark = pytest.mark.lab
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def machine():
    made = Lab.up(Spec("one", 1, 0, 2), install=True)
    try:
        yield made
    finally:
        made.down()


def test_six_lines_are_enough(machine, builds, tmp_path):
    """README's inventory as it stands there, with the lab's address; what only the lab needs comes by -e."""
    text = next(
        block for block in re.findall(r"```yaml\n(.*?)```", README.read_text(), re.DOTALL) if "one-machine" in block
    )
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 6
    host = machine.hosts()[0]
    path = tmp_path / "one.yaml"
    path.write_text(re.sub(r"ansible_host: [\w.]+", f"ansible_host: {host.address}", text))
    vars_only = tmp_path / "lab.yaml"
    vars_only.write_text(json.dumps(_lab_vars(machine)))

    if builds.exists():
        shutil.copytree(builds, tmp_path / "cache")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def provision(*words):
        argv = [sys.executable, "-m", "provision", *words, "-i", str(path), "-e", f"@{vars_only}"]
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=600, stdin=subprocess.DEVNULL, env=environment
        )

    deployed = provision("deploy", "--yes")
    assert deployed.returncode == 0, deployed
    verified = provision("verify")
    assert verified.returncode == 0, verified
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


def _lab_vars(machine):
    import yaml

    given = yaml.safe_load(Path(machine.inventory).read_text())["all"]["vars"]
    given["ollama"].pop("models", None)
    return given
