"""The operator's own part of the balancer, from the inventory to the host and back."""

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
    assert "include-" not in fleet.on("lb-01", "ls", f"{FOLDER}/"), "no file stays without its key"


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
