"""Mirrors of the site by other names: a repository with a password, and a registry of models with the usual names.

The mirror with a password and the model server are simulated; apt, curl and Docker are real.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.lab import models

from .conftest import Done, Fleet, wait_for
from .test_runbooks import Operator, items
from .test_secrets import Env

pytestmark = pytest.mark.lab
HOST, ON, PORT = "gpu-02", "lb-01", 8081
FOLDER, LABS = "/run/login-mirror", "/etc/apt/apt.conf.d/91lab-proxy"
KEY = "/etc/apt/keyrings/provision-nvidia_toolkit.asc"
LOGINS = ("/etc/apt/auth.conf.d/provision-mirrors.conf", "/etc/provision/mirrors.netrc")
CANARY = "zq9canary"
MODEL = "deepseek-r1:1.5b"
LIMIT = ("--limit", HOST)


class Mirrored:
    """A fleet with mirrors; one host asks a mirror with a password.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.site = fleet, fleet.lab.network.site
        self.address = f"http://{fleet.address(ON)}:{PORT}/libnvidia-container"
        self.environment = {"NVIDIA_MIRROR": self.address.replace("//", f"//bot:{CANARY}%40x@")}
        self.long = f"{self.site}:{models.PORT}/library/{MODEL}"
        self.said: list[str] = []
        fleet.lab.host(ON).write("/root/login_mirror.py", Path(__file__).with_name("login_mirror.py").read_text())
        fleet.on(ON, "mkdir", "-p", FOLDER)
        fleet.lab.host(ON).write(f"{FOLDER}/login", f"bot:{CANARY}@x")
        words = ["systemd-run", "--collect", "--unit=login-mirror", "python3", "/root/login_mirror.py"]
        fleet.on(ON, *words, str(PORT), FOLDER, self.site)
        wait_for(lambda: f":{PORT} " in fleet.on(ON, "ss", "-Hltn"), 30)

    def run(self, *words: str, code: int = 0) -> Done:
        done = self.fleet.provision(*words, env=self.environment)
        self.said.append(done.out + done.err)
        assert done.code == code, done
        return done

    def declare(self) -> None:
        variables, site = self.fleet.vars, f"http://{self.site}"
        del variables["docker"]["repository"], variables["docker"]["registry_mirrors"]
        del variables["nvidia_toolkit"]["repository"], variables["nginx"]["url"]
        variables["models"] = {"insecure": True}
        variables["mirrors"] = {
            "docker": f"{site}/docker",
            "nvidia_toolkit": f"{site}/libnvidia-container",
            "nginx": f"{site}/nginx",
            "images": [f"{site}:5000"],
            "model_registry": f"{self.site}:{models.PORT}",
        }
        self.fleet.hosts("gpu")[HOST]["mirrors"] = {"nvidia_toolkit": Env("NVIDIA_MIRROR")}

    def remove(self, declared: dict[str, Any]) -> None:
        self.fleet.vars.clear()
        self.fleet.vars.update(json.loads(declared["vars"]))
        del self.fleet.hosts("gpu")[HOST]["mirrors"]

    def names(self, instance: str = "ollama1") -> set[str]:
        listed = json.loads(self.fleet.on(HOST, "curl", "-s", f"http://{self.at(instance)}/api/tags"))
        return {model["name"] for model in listed["models"]}

    def at(self, instance: str) -> str:
        """Return address and port of an instance."""
        return self.fleet.on(HOST, "docker", "port", instance, "11434/tcp").splitlines()[0]


@pytest.fixture
def mirrored(fleet) -> Iterator[Mirrored]:
    """The mirror with a password runs, and apt on the host asks that mirror directly."""
    kept = fleet.on(HOST, "cat", LABS)
    direct = f'Acquire::http::Proxy::{fleet.address(ON)} "DIRECT";\n'
    fleet.lab.host(HOST).write(LABS, kept + direct)
    yield Mirrored(fleet)
    fleet.lab.host(ON).run(["systemctl", "stop", "login-mirror.service"], check=False)
    fleet.lab.host(HOST).write(LABS, kept)


class Reader(Operator):
    """An operator with the page `behind-mirrors`, and a variable for the mirror."""

    mirrored: Mirrored

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.mirrored.environment}


def test_the_page_behind_mirrors(mirrored, tmp_path):
    """Every command of the page, with the proof of each way, drift by hand, a rollback and failures."""
    reader, declared = Reader(mirrored.fleet, tmp_path), {"vars": json.dumps(mirrored.fleet.vars)}
    reader.mirrored = mirrored
    typed = {}
    for kind, what in items("behind-mirrors"):
        if kind == "type":
            done = reader.command(what)
            typed[what] = done.stdout + done.stderr
            mirrored.said.append(typed[what])
        elif what == "name the mirrors":
            script = f"rm {KEY}; dpkg --remove --force-depends libnvidia-container-tools; apt-get clean"
            mirrored.fleet.on(HOST, "sh", "-euc", script)
            mirrored.declare()
        else:
            assert what == "remove the section"
            planned = typed["provision plan --inventory prod.yaml --diff"]
            assert f"login for {mirrored.address}" in planned
            every_way(mirrored)
            drifted_by_hand(mirrored)
            a_rollback(mirrored)
            failures(mirrored)
            mirrored.remove(declared)
    assert mirrored.names() == {MODEL}
    for path in LOGINS:
        assert mirrored.fleet.lab.host(HOST).run(["test", "-e", path], check=False).returncode == 1
    for said in mirrored.said:
        assert CANARY not in said
    for host in (HOST, ON):
        assert CANARY not in mirrored.fleet.on(host, "journalctl", "--no-pager")


def every_way(mirrored: Mirrored) -> None:
    """The deploy fetched key and package with the login, and each instance has the model under both names."""
    modes = {mirrored.fleet.on(HOST, "stat", "-c", "%a %U", path).strip() for path in LOGINS}
    assert modes == {"600 root"}
    log = mirrored.fleet.on(ON, "cat", f"{FOLDER}/log").splitlines()
    assert "ok GET /libnvidia-container/gpgkey" in log
    assert [line for line in log if line.startswith("ok ") and line.endswith(".deb")], log
    for instance in ("ollama1", "ollama2"):
        assert mirrored.names(instance) == {MODEL, mirrored.long}


def drifted_by_hand(mirrored: Mirrored) -> None:
    """A missing name and an open file are found by plan and verify; a deploy mends both without a download."""
    body, delete = json.dumps({"model": MODEL}), f"http://{mirrored.at('ollama1')}/api/delete"
    mirrored.fleet.on(HOST, "curl", "-sf", "-X", "DELETE", "-d", body, delete)
    mirrored.fleet.on(HOST, "chmod", "0644", LOGINS[1])
    document = mirrored.run("plan", "--json", *LIMIT).host(HOST)
    found = {change["step"] for change in document["changes"]}
    assert {f"alias:ollama1/{MODEL}", f"mirror_login:{LOGINS[1]}"} <= found
    assert f"model:ollama1/{mirrored.long}" not in found
    verified = mirrored.run("verify", *LIMIT, code=5)
    assert f"alias:ollama1/{MODEL}" in verified.out
    assert LOGINS[1] in verified.out
    mirrored.run("deploy", "--yes", "--json", *LIMIT)
    assert mirrored.names() == {MODEL, mirrored.long}
    mirrored.run("plan", "--exit-code", *LIMIT)


def a_rollback(mirrored: Mirrored) -> None:
    """The files of logins come back as they were before a run; names of models stay."""
    mirrored.fleet.on(HOST, "rm", *LOGINS)
    run = mirrored.run("deploy", "--yes", "--json", *LIMIT).doc["run"]
    mirrored.run("rollback", run, "--yes", *LIMIT)
    assert mirrored.fleet.lab.host(HOST).run(["test", "-e", LOGINS[0]], check=False).returncode == 1
    assert mirrored.names() == {MODEL, mirrored.long}
    mirrored.run("deploy", "--yes", "--json", *LIMIT)


def failures(mirrored: Mirrored) -> None:
    """The mirror sends a page, then demands another login; the error names host, address and key."""
    asked = f"{HOST} asked the mirror {mirrored.address} (mirrors.nvidia_toolkit)"
    mirrored.fleet.on(HOST, "rm", KEY)
    mirrored.fleet.on(ON, "sh", "-c", f"echo '<html>log in here</html>' >{FOLDER}/page")
    for words in ("and a web page came in place of the file", "which demands another login (401)"):
        done = mirrored.run("deploy", "--yes", *LIMIT, "--tags", "nvidia_toolkit", code=3)
        assert f"{asked}, {words}" in " ".join((done.out + done.err).split()), done
        mirrored.fleet.lab.host(ON).write(f"{FOLDER}/login", "bot:another")
    mirrored.fleet.on(ON, "rm", f"{FOLDER}/page")
    mirrored.fleet.lab.host(ON).write(f"{FOLDER}/login", f"bot:{CANARY}@x")
    mirrored.run("deploy", "--yes", "--json", *LIMIT)
    mirrored.run("plan", "--exit-code", *LIMIT)
