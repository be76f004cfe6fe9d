"""Two sites on the fleet: the own site first, the other site in need, drift, rollback, removal. The model server is
SIMULATED."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.fleet import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
MODEL = "deepseek-r1:1.5b"
CONFIG, LOG = "/etc/provision/nginx", "/var/log/provision-nginx/access.log"


def served(fleet: Any) -> tuple[int, str]:
    """Return status and site of a short answer."""
    body = {"model": MODEL, "prompt": "question", "stream": False, "options": {"num_predict": 1}}
    url = f"http://{fleet.address('lb-01')}:3008/api/generate"
    asked = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        answer = urllib.request.urlopen(asked, timeout=60)  # noqa: S310 - the lab
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers["X-Site"] or ""


def failed(fleet: Any) -> set[str]:
    """Return the steps that fail in a verification."""
    done = fleet.provision("verify", "--json")
    return {check["step"] for host in done.doc["hosts"] for check in host["checks"] if not check["passed"]}


def in_site(fleet: Any, *, named: bool) -> None:
    """Give each host its site in the inventory, or take the sites away."""
    for group, role, sites in (("gpu", "ollama", ("east", "west")), ("balancer", "balancer", ("east",))):
        for host, site in zip(fleet.hosts(group).values(), sites, strict=True):
            settings = host.setdefault(role, {})
            settings.update(site=site) if named else settings.pop("site")


def test_the_other_site_serves_what_the_own_site_cannot(scratch: Any) -> None:
    scratch.vars["balancer"] = {**scratch.vars.get("balancer", {}), "router": "njs", "fail_timeout": "2s"}
    scratch.deploy()
    plain = scratch.on("lb-01", "cat", f"{CONFIG}/gateway_server.conf", f"{CONFIG}/upstream.conf")
    in_site(scratch, named=True)
    (change,) = next(host for host in scratch.plan().doc["hosts"] if host["host"] == "lb-01")["changes"]
    assert (
        "gpu-02/ollama2 of the site west: only where no instance of this balancer's site can serve" in change["impact"]
    )
    run = scratch.deploy().doc["run"]
    assert not any(scratch.changes().values())
    assert failed(scratch) == set()
    assert {served(scratch) for _ in range(6)} == {(200, "east")}

    _a_drained_site_leaves_its_requests_to_the_other(scratch)
    _a_dead_site_too(scratch)
    _drift_is_found(scratch)

    assert scratch.provision("rollback", run, "--yes", "--json").code == 0
    assert scratch.on("lb-01", "cat", f"{CONFIG}/gateway_server.conf", f"{CONFIG}/upstream.conf") == plain
    assert served(scratch) == (200, "")
    scratch.deploy()
    assert served(scratch) == (200, "east")
    in_site(scratch, named=False)
    scratch.deploy()
    assert scratch.on("lb-01", "cat", f"{CONFIG}/gateway_server.conf", f"{CONFIG}/upstream.conf") == plain


def _a_drained_site_leaves_its_requests_to_the_other(fleet: Any) -> None:
    refused = fleet.provision("drain", "gpu-01", "--json")
    assert refused.code != 0
    assert "at the site east" in refused.out + refused.err, "the last instances of a site are named"
    assert fleet.provision("drain", "gpu-01", "--force", "--json").code == 0
    assert {served(fleet) for _ in range(4)} == {(200, "west")}
    row = json.loads(fleet.on("lb-01", "tail", "-n", "1", LOG))
    assert (row["site"], row["status"]) == ("west", 200)
    assert failed(fleet) == set()
    assert fleet.provision("undrain", "gpu-01", "--json").code == 0
    assert {served(fleet) for _ in range(4)} == {(200, "east")}


def _a_dead_site_too(fleet: Any) -> None:
    fleet.on("gpu-01", "docker", "stop", "ollama1", "ollama2")
    assert {served(fleet) for _ in range(4)} == {(200, "west")}
    fleet.on("gpu-02", "docker", "stop", "ollama1", "ollama2")
    assert served(fleet) == (503, "")
    for host in ("gpu-01", "gpu-02"):
        fleet.on(host, "docker", "start", "ollama1", "ollama2")
    wait_for(lambda: served(fleet) == (200, "east"), 60)


def _drift_is_found(fleet: Any) -> None:
    fleet.on("lb-01", "sed", "-i", "s/# site: west/# site: east/", f"{CONFIG}/upstream.conf")
    assert fleet.changes()["lb-01"] == ["config:balancer"]
    assert "config:balancer" in failed(fleet)
    fleet.deploy()
    assert failed(fleet) == set()
