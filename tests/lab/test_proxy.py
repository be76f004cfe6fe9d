"""A real forward proxy with a password on a lab host: packages, keys, images, models and nginx's source go through it.

The model server is simulated and asks as Go does; apt, curl, Docker and the image registry are real.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest

from provision.lab import machine, models

from .conftest import Fleet
from .guarded import CANARY, HOST, LIMIT, ON, Guarded
from .test_secrets import Env

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
PORT = 3128
KEY, FILE = "/etc/apt/keyrings/provision-docker.asc", "/etc/provision/docker/proxy.env"
APT, OURS = "/etc/apt/apt.conf.d/0-provision-proxy", "/etc/provision/proxy.env"
LABS = "/etc/apt/apt.conf.d/91lab-proxy"
LOGIN = f"user:{CANARY} p@ss"


class Proxied(Guarded):
    """A fleet of which one host has a proxy.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, "forward_proxy", PORT, LOGIN)
        self.environment = {"SITE_PROXY": f"http://user:{CANARY}%20p%40ss@{self.endpoint}"}

    @property
    def host(self) -> dict[str, Any]:
        return self.fleet.hosts("gpu")[HOST]

    def declare(self) -> None:
        self.host["proxy"] = {"http": Env("SITE_PROXY"), "https": Env("SITE_PROXY")}
        # only one instance pulls models through the proxy: the other instance stays as it is
        self.host["ollama"]["instances"][0]["https_proxy"] = ""

    def remove(self) -> None:
        del self.host["proxy"], self.host["ollama"]["instances"][0]["https_proxy"]


@pytest.fixture
def proxied(fleet) -> Iterator["Proxied"]:
    """The proxy runs, and apt on the host has no direct way to the site any more."""
    kept = fleet.on(HOST, "cat", LABS)
    fleet.on(HOST, "sed", "-i", "/DIRECT/d", LABS)
    made = Proxied(fleet)
    yield made
    made.stop()
    fleet.lab.host(HOST).write(LABS, kept)


def test_the_page_behind_a_proxy(proxied, lab, tmp_path):
    """A rollback takes the proxy away; then every command of the page, with the proof of each way and each failure."""
    site = lab.network.site
    proxied.declare()
    run = proxied.run("deploy", "--yes", "--json", *LIMIT).doc["run"]
    assert not direct(proxied)
    proxied.run("rollback", run, "--yes", *LIMIT)
    assert direct(proxied)
    proxied.remove()
    proxied.run("plan", "--exit-code", *LIMIT)

    def named(_: Mapping[str, str]) -> None:
        proxied.fetch_again(KEY)
        proxied.declare()

    def removed(typed: Mapping[str, str]) -> None:
        planned = typed["provision plan --inventory prod.yaml --diff"]
        assert f"http:// through http://[secret]@{proxied.endpoint}" in planned
        assert "restarts Docker while containers run: they go on, by live-restore" in planned
        every_way(proxied, site)
        drifted_by_hand(proxied)
        failures(proxied)
        proxied.remove()

    proxied.read("behind-a-proxy", tmp_path, {"name the proxy": named, "remove the section": removed})
    assert direct(proxied)
    proxied.told_nobody()


def every_way(proxied: Proxied, site: str) -> None:
    """The deploy fetched a key and a package; Docker and a server pull."""
    assert {proxied.fleet.on(HOST, "stat", "-c", "%a %U", path).strip() for path in (FILE, APT, OURS)} == {"600 root"}
    proxied.fleet.on(HOST, "docker", "pull", "-q", "ollama/ollama:0.33.0")
    proxied.fleet.on(HOST, "docker", "image", "rm", "ollama/ollama:0.33.0")
    for instance in ("ollama1", "ollama2"):  # the site's registry speaks http, so the tunnel is the proof
        at = proxied.fleet.on(HOST, "docker", "port", instance, "11434/tcp").splitlines()[0]
        body = json.dumps({"model": f"{site}:{models.PORT}/library/{instance}", "stream": False})
        proxied.fleet.lab.host(HOST).run(["curl", "-s", "-m", "30", "-d", body, f"http://{at}/api/pull"], check=False)
    log = proxied.log()
    for line in (
        rf"GET http://{site}/docker/linux/[a-z]+/gpg",
        rf"GET http://{site}/libnvidia-container/.*\.deb",
        rf"(GET|HEAD) http://{site}:5000/v2/ollama/ollama/",
        rf"CONNECT {site}:{models.PORT}",
    ):
        assert re.search(f"^ok {line}", log, re.MULTILINE), (line, log)
    assert f"http://{site}:3142" not in log
    mirror = urlsplit(machine.apt_sources()[0].uri).netloc
    assert f"http://{mirror}" not in log, "the lab's own proxy for other sources stays in force"
    assert {proxied.fleet.address(name) for name in ("gpu-01", HOST, ON)} & set(_hosts(log)) == set()


def _hosts(log: str) -> Iterator[str]:
    """The hosts that a log names."""
    for line in log.splitlines():
        yield line.split()[2].removeprefix("http://").partition("/")[0].partition(":")[0]


def drifted_by_hand(proxied: Proxied) -> None:
    proxied.fleet.on(HOST, "sh", "-euc", f"echo '# by hand' >>{FILE}; rm {APT}; chmod 0644 {OURS}")
    document = proxied.run("plan", "--json", *LIMIT).host(HOST)
    found = {change["step"]: change for change in document["changes"]}
    assert {f"docker_proxy:{FILE}", f"proxy:{APT}", f"proxy:{OURS}", "service:docker"} <= set(found)
    assert "restarts Docker" in found[f"docker_proxy:{FILE}"]["impact"]
    verified = proxied.run("verify", *LIMIT, code=5)
    for path in (FILE, APT, OURS):
        assert path in verified.out


def failures(proxied: Proxied) -> None:
    """The proxy fails in three ways; the error names host, proxy and cure. Then the drift is mended."""
    proxied.fleet.on(HOST, "rm", KEY)
    proxied.login("user:another")
    refused(proxied, "which demands another login (407): write http://USER:PASSWORD@HOST:PORT")
    proxied.login(LOGIN)
    proxied.page(on=True)
    refused(proxied, "and a web page came in place of the file")
    proxied.page(on=False)
    proxied.stop()
    refused(proxied, "and the proxy does not answer: see that the proxy runs")
    proxied.start()
    proxied.run("deploy", "--yes", "--json", *LIMIT)
    proxied.run("plan", "--exit-code", *LIMIT)
    proxied.run("verify", "--json", *LIMIT)


def refused(proxied: Proxied, cure: str) -> None:
    done = proxied.run("deploy", "--yes", *LIMIT, "--tags", "proxy,docker", code=3)
    said = " ".join((done.out + done.err).split())
    assert f"{HOST} asked through the proxy http://[secret]@{proxied.endpoint}" in said, done
    assert cure in said, done


def direct(proxied: Proxied) -> bool:
    """Whether no file is left and Docker asks directly; either all or nothing."""
    words = ["sh", "-c", f"ls {FILE} {APT} {OURS}"]
    files = proxied.fleet.lab.host(HOST).run(words, check=False).stdout.split()
    asked = proxied.fleet.on(HOST, "docker", "info", "--format", "{{.HTTPProxy}}{{.HTTPSProxy}}").strip()
    assert (asked == "") == (files == []), (asked, files)
    return not files


def test_the_source_of_nginx_goes_through_the_proxy(proxied, lab):
    """Another sha256 than the source's: the download is proven, and the build of the fleet stays as it is."""
    balancer = proxied.fleet.hosts("balancer")[ON]
    balancer["proxy"] = {"http": Env("SITE_PROXY"), "https": Env("SITE_PROXY")}
    balancer["nginx"] = {"sha256": "0" * 64}
    done = proxied.run("deploy", "--yes", "--json", "--limit", ON, "--tags", "proxy,nginx", code=3)
    assert f"and {'0' * 64} is expected" in json.dumps(done.host(ON)), done
    assert f"ok GET http://{lab.network.site}/nginx/nginx-" in proxied.log()
    assert CANARY not in done.out + done.err
    del balancer["proxy"], balancer["nginx"]
    proxied.fleet.deploy("--limit", ON)
    proxied.run("plan", "--exit-code")
