"""Mirrors of the site by other names: a repository with a password, and a registry of models with the usual names.

The mirror with a password and the model server are simulated; apt, curl and Docker are real.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from provision.lab import models
from provision.steps.docker import image_room

from .conftest import Fleet
from .guarded import CANARY, HOST, LIMIT, ON, Guarded
from .test_secrets import Env, Watch

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
PORT, TLS_PORT = 8081, 5443
LABS = "/etc/apt/apt.conf.d/91lab-proxy"
KEY = "/etc/apt/keyrings/provision-nvidia_toolkit.asc"
LOGINS = ("/etc/apt/auth.conf.d/provision-mirrors.conf", "/etc/provision/mirrors.netrc")
MODEL = "deepseek-r1:1.5b"
LOGIN = f"bot:{CANARY}@x"


class Mirrored(Guarded):
    """A fleet with mirrors; one host asks a mirror with a password.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.site = fleet.lab.network.site
        super().__init__(fleet, "login_mirror", PORT, LOGIN, self.site)
        self.address = f"http://{self.endpoint}/libnvidia-container"
        self.environment = {"NVIDIA_MIRROR": self.address.replace("//", f"//bot:{CANARY}%40x@")}
        self.long = f"{self.site}:{models.PORT}/library/{MODEL}"

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
    made = Mirrored(fleet)
    yield made
    made.stop()
    fleet.lab.host(HOST).write(LABS, kept)


def test_the_page_behind_mirrors(mirrored, tmp_path):
    """Every command of the page, with the proof of each way, drift by hand, a rollback and failures."""
    declared = {"vars": json.dumps(mirrored.fleet.vars)}

    def named(_: Mapping[str, str]) -> None:
        mirrored.fetch_again(KEY)
        mirrored.declare()

    def removed(typed: Mapping[str, str]) -> None:
        planned = typed["provision plan --inventory prod.yaml --diff"]
        assert f"login for {mirrored.address}" in planned
        every_way(mirrored)
        drifted_by_hand(mirrored)
        a_rollback(mirrored)
        failures(mirrored)
        mirrored.remove(declared)

    mirrored.read("behind-mirrors", tmp_path, {"name the mirrors": named, "remove the section": removed})
    assert mirrored.names() == {MODEL}
    for path in LOGINS:
        assert mirrored.fleet.lab.host(HOST).run(["test", "-e", path], check=False).returncode == 1
    mirrored.told_nobody()


def every_way(mirrored: Mirrored) -> None:
    """The deploy fetched key and package with the login, and each instance has the model under both names."""
    modes = {mirrored.fleet.on(HOST, "stat", "-c", "%a %U", path).strip() for path in LOGINS}
    assert modes == {"600 root"}
    log = mirrored.log().splitlines()
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
    mirrored.page(on=True)
    for words in ("and a web page came in place of the file", "which demands another login (401)"):
        done = mirrored.run("deploy", "--yes", *LIMIT, "--tags", "nvidia_toolkit", code=3)
        assert f"{asked}, {words}" in " ".join((done.out + done.err).split()), done
        mirrored.login("bot:another")
    mirrored.page(on=False)
    mirrored.login(LOGIN)
    mirrored.run("deploy", "--yes", "--json", *LIMIT)
    mirrored.run("plan", "--exit-code", *LIMIT)


REGISTRY_LOGIN = f"registry_login:{image_room.LOGINS}"
TAG = "0.33.0"
# $1 address: a certificate of the registry's own; prints the certificate.
CERTIFICATE = """
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=registry \\
  -addext "subjectAltName=IP:$1" -keyout /root/registry.key -out /root/registry.crt 2>/dev/null
cat /root/registry.key >>/root/registry.crt
openssl x509 -in /root/registry.crt
"""
# $1 registry. Docker reads the folder at each pull; curl reads the system's list.
TRUST = """
install -D -m 0644 /root/registry.crt "/etc/docker/certs.d/$1/ca.crt"
install -D -m 0644 /root/registry.crt /usr/local/share/ca-certificates/registry.crt; update-ca-certificates
"""
DISTRUST = """
rm -r "/etc/docker/certs.d/$1" /usr/local/share/ca-certificates/registry.crt; update-ca-certificates --fresh
"""


class Private(Guarded):
    """The site's registry of images with a password and TLS; the host's image comes from there.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        text = fleet.on(ON, "sh", "-euc", CERTIFICATE, "sh", fleet.address(ON))
        super().__init__(fleet, "login_mirror", TLS_PORT, LOGIN, f"{fleet.lab.network.site}:5000", "/root/registry.crt")
        self.environment = {"REGISTRY_PASSWORD": f"{CANARY}@x"}
        fleet.lab.host(HOST).write("/root/registry.crt", text)
        fleet.on(HOST, "sh", "-euc", TRUST, "sh", self.endpoint)
        self.host = fleet.hosts("gpu")[HOST]

    def declare(self) -> None:
        login = {"username": "bot", "password": Env("REGISTRY_PASSWORD")}
        self.host["docker"] = {"registries": {self.endpoint: login}}
        self.host["ollama"]["image"] = f"{self.endpoint}/ollama/ollama:{TAG}"

    def remove(self) -> None:
        del self.host["docker"], self.host["ollama"]["image"]

    def has_file(self) -> bool:
        return self.fleet.lab.host(HOST).run(["test", "-e", image_room.LOGINS], check=False).returncode == 0


@pytest.fixture
def private(fleet) -> Iterator[Private]:
    made = Private(fleet)
    yield made
    made.stop()
    fleet.on(HOST, "sh", "-c", DISTRUST, "sh", made.endpoint)


def test_an_image_comes_from_a_registry_with_a_login(private):
    """A wrong password is named before the deploy; then a pull, drift by hand, a rollback, and the key goes."""
    auth = base64.b64encode(LOGIN.encode()).decode()
    private.declare()
    private.login("bot:another")
    examined = private.run("doctor", "--json", *LIMIT, code=5)
    assert f"{private.endpoint} refuses the login" in says(examined.host(HOST)["checks"], "fail")
    private.login(LOGIN)
    examined = private.run("doctor", "--json", *LIMIT)
    assert f"{private.endpoint} takes the login" in says(examined.host(HOST)["checks"], "pass")
    # no name of the world outside resolves in the lab
    assert "does not resolve (DNS), and the host has all its models" in says(examined.host(HOST)["checks"], "warn")
    assert f"login for {private.endpoint}" in private.run("plan", "--diff", *LIMIT).out
    with Watch(CANARY, auth) as watch:
        private.run("deploy", "--yes", "-v", *LIMIT)
    assert watch.whole
    assert watch.found == set()
    log = private.log()
    for asked in ("manifests", "blobs"):
        assert f"ok GET /v2/ollama/ollama/{asked}/" in log
    assert private.fleet.on(HOST, "stat", "-c", "%a %U", image_room.LOGINS).strip() == "600 root"
    image = private.fleet.on(HOST, "docker", "inspect", "--format", "{{.Config.Image}}", "ollama1").strip()
    assert image == f"{private.endpoint}/ollama/ollama:{TAG}"
    gone_and_back(private)
    private.remove()
    private.run("deploy", "--yes", "--json", *LIMIT)
    assert not private.has_file()
    private.run("plan", "--exit-code", *LIMIT)
    private.told_nobody(auth)
    journal = ["grep", "-rlE", f"{CANARY}|{auth}", "/var/lib/provision/journal"]
    assert private.fleet.lab.host(HOST).run(journal, check=False).stdout == ""


def says(checks: list[dict[str, Any]], verdict: str) -> str:
    return "\n".join(check["says"] for check in checks if check["verdict"] == verdict)


def gone_and_back(private: Private) -> None:
    """A missing file is found by plan and verify and mended; a rollback of the cure takes the file away again."""
    private.fleet.on(HOST, "rm", image_room.LOGINS)
    planned = private.run("plan", "--json", *LIMIT).host(HOST)
    assert [change["step"] for change in planned["changes"]] == [REGISTRY_LOGIN]
    assert image_room.LOGINS in private.run("verify", *LIMIT, code=5).out
    run = private.run("deploy", "--yes", "--json", *LIMIT).doc["run"]
    assert private.has_file()
    private.run("rollback", run, "--yes", *LIMIT)
    assert not private.has_file()
    private.run("deploy", "--yes", "--json", *LIMIT)
    assert private.has_file()
