"""Settings of the balancer, from the inventory to the host and back: files of the operator, networks of a listener."""

import json

import pytest

from .test_secrets import File
from .test_serve import request

pytestmark = pytest.mark.lab
ONLY = ("--tags", "balancer", "--limit", "lb-01")
FOLDER = "/etc/provision/nginx"
HTTP, SERVER = "include-http-zones.conf", "include-server-headers.conf"
SECRET = "canary-of-an-include"


@pytest.fixture
def settings(fleet):
    """The settings of the balancer, which the test may change; afterwards the balancer is as before."""
    fleet.vars["balancer"] = {}
    yield fleet.vars["balancer"]
    del fleet.vars["balancer"]
    fleet.deploy(*ONLY)
    kept = [name for name in fleet.on("lb-01", "ls", f"{FOLDER}/").split() if name.startswith(("include-", "allow"))]
    assert kept == [], "no file stays without its key"


def test_files_of_the_operator_go_the_whole_way(fleet, settings):
    before = fleet.on("lb-01", "readlink", FOLDER)
    headers = fleet.folder / "headers.conf"
    headers.write_text(f'# {SECRET}\nadd_header X-Site "one" always;\nlimit_rte 1;\n')
    settings["include"] = {
        "http": {"zones.conf": "limit_req_zone $remote_addr zone=each:1m rate=100r/s;\n"},
        "server": {"headers.conf": File(headers)},
    }
    refused = fleet.provision("deploy", "--yes", *ONLY)
    assert refused.code == 3, refused
    assert f'unknown directive "limit_rte" in /var/lib/provision/nginx/.new/{SERVER}:3' in refused.out + refused.err
    assert fleet.on("lb-01", "readlink", FOLDER) == before, "nginx keeps the configuration of before"

    headers.write_text(f'# {SECRET}\nadd_header X-Site "one" always;\nlimit_req zone=each burst=100;\n')
    plan = fleet.provision("plan", "--diff", *ONLY)
    assert (plan.code, f"+ {SERVER}" in plan.out) == (0, True), plan
    assert "reloads nginx (open streams finish)" in plan.out
    deployed = fleet.deploy(*ONLY)
    assert request(fleet, "/api/version").headers["X-Site"] == "one"
    assert fleet.on("lb-01", "stat", "-Lc", "%a %U:%G", f"{FOLDER}/{HTTP}") == "600 root:root\n"
    verified = fleet.provision("verify", "--limit", "lb-01")
    assert verified.code == 0, verified

    fleet.on("lb-01", "sed", "-i", "s/one/two/", f"{FOLDER}/{SERVER}")
    drifted = fleet.provision("plan", "--diff", *ONLY)
    assert f"{SERVER}: sha256" in drifted.out, drifted
    checked = fleet.provision("verify", "--limit", "lb-01")
    assert checked.code == 5, checked
    assert SECRET not in "".join(done.out + done.err for done in (refused, plan, deployed, verified, drifted, checked))
    fleet.deploy(*ONLY)
    assert request(fleet, "/api/version").headers["X-Site"] == "one"

    run = deployed.doc["run"]
    assert fleet.provision("rollback", run, "--yes", "--json").code == 0
    assert request(fleet, "/api/version").headers["X-Site"] is None
    assert fleet.changes(*ONLY)["lb-01"] == ["config:balancer"]
    fleet.deploy(*ONLY)
    kept = fleet.on("lb-01", "sh", "-c", f"grep -rl {SECRET} /var/lib/provision/journal /var/lib/provision/store || :")
    assert kept == ""


def test_networks_of_both_listeners_go_the_whole_way(fleet, settings):
    lb, gpu = fleet.address("lb-01"), fleet.address("gpu-01")
    settings |= {"allow": [gpu], "status_listen": [lb], "status_allow": [gpu]}
    plan = fleet.provision("plan", *ONLY)
    assert f"clients outside of {gpu}/32 get 403" in plan.out, plan
    deployed = fleet.deploy(*ONLY)

    def status(host, url):
        words = (
            "sh",
            "-c",
            '"$@" || :',
            "sh",
            "curl",
            "--noproxy",
            "*",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            f"http://{lb}:{url}",
        )
        return fleet.on(host, *words)

    for path in ("/api/tags", "/v1/models", "/models/-/v1/models", "/models/-/api/tags", "/api/pull", "/x"):
        with request(fleet, path) as answer:
            assert (answer.status, list(json.load(answer))) == (403, ["error"]), path
    asked = [(host, url) for host in ("gpu-01", "gpu-02") for url in ("3008/api/tags", "8080/generation")]
    assert [status(*pair) for pair in asked] == ["200", "200", "403", "403"]
    verified = fleet.provision("verify", "--limit", "lb-01", "-v")
    assert verified.code == 0, verified

    edit = f"sed -i 's/default 1/default 0/' {FOLDER}/allow.conf {FOLDER}/status.conf; systemctl reload provision-nginx"
    fleet.on("lb-01", "sh", "-c", edit)
    assert fleet.changes(*ONLY)["lb-01"] == ["config:balancer"]
    opened = fleet.provision("verify", "--limit", "lb-01")
    assert opened.code == 5, opened
    for setting in ("balancer.allow", "balancer.status_allow"):
        assert f"refuses 127.0.0.2, which is outside of {setting}" in opened.out, opened
    fleet.deploy(*ONLY)
    assert status("gpu-02", "3008/api/tags") == "403"

    assert fleet.provision("rollback", deployed.doc["run"], "--yes", "--json").code == 0
    assert [status("gpu-02", url) for url in ("3008/api/tags", "8080/generation")] == ["200", "000"]
