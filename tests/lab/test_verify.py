"""Verify finds faults that deploy cannot know, and names the step, the expected value and the actual value.

A row of lies is played at once, one on each host; the tests of all of them share verify's answer.
"""

import json
import re
import time
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import pytest

from provision.lab import faults
from provision.plan import role_interface
from provision.steps.base import NOT_ASKED
from tests.lab.conftest import DEPLOYED, Done, Fleet, settle

pytestmark = pytest.mark.lab

AT = "$(docker port ollama1 11434)"
ANY = "0.0.0.0"  # noqa: S104 - any address that a foreign program binds
MODEL = "deepseek-r1:1.5b"
IMAGE = "ollama/ollama:0.34.4"
NGINX, UPSTREAM = "/etc/provision/nginx", "/etc/provision/nginx/upstream.conf"
RELOAD = "systemctl reload provision-nginx; sleep 1"
OLDER = "/var/lib/provision/nginx/aaaaaaaaaaaa"
# Steps that cannot be proved while another step is missing.
INSTANCE = ("container:ollama1", f"model:ollama1/{MODEL}", "resident:ollama1")
CARDS = (*INSTANCE, "container:ollama2", "resident:ollama2", "gpu_driver:docker")
DOCKER = (
    *CARDS,
    f"model:ollama2/{MODEL}",
    "volume:ollama1",
    "volume:ollama2",
    f"image:{IMAGE}",
    "guard:instances",
    "firewall:DOCKER-USER",
)
SERVICE = ("config:balancer", "listen:nginx")


@dataclass(frozen=True)
class Lie:
    """A fault that the declared state does not show.

    Args:
        how: the fault in words.
        step: id of the step whose check must fail.
        check: name of the failing check.
        expected: part of the expected value that the check must report.
        got: part of the actual value that the check must report.
        script: the fault as a script: POSIX sh, run as root; empty where a fault of the lab does the work.
        fault: target (`HOST` stands for the host) and name of the lab's fault.
        also: ids of further steps that may fail.
        undo: script for damage that a deploy does not undo.
    """

    how: str
    step: str
    check: str
    expected: str
    got: str
    script: str = ""
    fault: tuple[str, str] | None = None
    also: tuple[str, ...] = ()
    undo: str = ""

    def __str__(self) -> str:
        return self.how


def made_anew(card: int, at: str) -> str:
    """Replace ollama1 behind our back by a container with our marks, on another card or address, that answers."""
    return f"""
at={at}
docker rm -f ollama1 >/dev/null
docker run -d --name ollama1 --label provision.managed=1 --label provision.instance=ollama1 --gpus device={card} \
  -p "$at:11434" --mount type=volume,source=ollama1,target=/root/.ollama {IMAGE}
until curl --noproxy '*' -sf -o /dev/null "http://$at/api/version"; do sleep 0.2; done
"""


def listener(address: str, port: int) -> dict[str, str]:
    """A port opened by hand, and the way to close it."""
    program = f"import socket, time; s = socket.create_server(('{address}', {port})); time.sleep(600)"
    return {
        "script": f'setsid python3 -c "{program}" >/dev/null 2>&1 & echo $! >/run/listener;'
        f" until ss -Hltn | grep -qF '{address}:{port} '; do sleep 0.1; done",
        "undo": "kill $(cat /run/listener)",
    }


def firewall(how: str, check: str, expected: str, got: str, rule: str) -> Lie:
    """A rule put before ours by hand."""
    opened = ("neighbour:ollama1", "neighbour:ollama2")
    script, undo = f"iptables -I {rule}", f"iptables -D {rule}" if rule.startswith("FORWARD ") else ""
    return Lie(f"firewall {how}", "firewall:DOCKER-USER", check, expected, got, script, also=opened, undo=undo)


def ask(what: str, method: str = "POST", **fields: Any) -> str:
    """Ask ollama1 for something, by hand."""
    body = json.dumps({"model": MODEL, "stream": False, **fields})
    return f"curl -sf -o /dev/null -X {method} -d '{body}' http://{AT}/api/{what}"


def restarted(instance: str) -> str:
    """Restart an instance, and wait until its server answers."""
    version = f"http://$(docker port {instance} 11434)/api/version"
    return f"docker restart -t 1 {instance}; until curl --noproxy '*' -sf -o /dev/null {version}; do sleep 0.2; done"


def container(how: str, check: str, expected: str, got: str, **how_done: Any) -> Lie:
    """A fault of the container of ollama1."""
    return Lie(how, "container:ollama1", check, expected, got, **how_done)


def config(how: str, check: str, expected: str, got: str, script: str) -> Lie:
    """A fault of the balancer's configuration."""
    return Lie(how, "config:balancer", check, expected, got, script)


GPU = (
    container("container stopped", "running", "running", "exited", script="docker stop -t 1 ollama1", also=INSTANCE),
    container("on the other card", "cards it sees", "GPU-", "GPU-", script=made_anew(1, AT), also=INSTANCE),
    container("cards lost inside", "cards it sees", "GPU-", "NVML", fault=("HOST", "gpu-lost"), also=CARDS),
    container("answers 503", "answers /api/version", "", "503", fault=("HOST/ollama1", "answer-503"), also=INSTANCE),
    Lie(
        *("fallen to the CPU", "resident:ollama1", f"{MODEL}: bytes on the cards", "", "0"),
        fault=("HOST/ollama1", "cpu"),
        script=restarted("ollama1") + "; " + ask("generate", keep_alive=-1),
        also=INSTANCE,
    ),
    Lie(
        *("on the CPU, and says otherwise", "resident:ollama1", "off_cards as declared", "[]", MODEL),
        fault=("HOST/ollama1", "cpu-unsaid"),
        script=ask("generate", keep_alive=0) + "; " + ask("generate", keep_alive=-1),
    ),
    Lie(
        *("model dropped", f"model:ollama1/{MODEL}", "model present", "True", "False", ask("delete", "DELETE")),
        also=INSTANCE,
    ),
    container(
        "restart policy changed",
        "restart as declared",
        "unless-stopped",
        "no",
        script="docker update --restart no ollama1",
        also=INSTANCE,
    ),
    Lie(
        *("an orphan on a used card", "container:ollama9", "on the host", "absent: no longer declared", "present"),
        f"docker run -d --name ollama9 --label provision.managed=1 --label provision.instance=ollama9 "
        f"--gpus device=1 {IMAGE}",
        also=("volume:ollama9",),
    ),
    container("a listener beside it", "listens elsewhere", "[]", "127.0.0.1", **listener("127.0.0.1", 3001)),
    container("open to everybody", "listens elsewhere", "[]", ANY, script=made_anew(0, f"{ANY}:3001"), also=INSTANCE),
    firewall("passed by", "first rule of DOCKER-USER", "PROVISION", "ACCEPT", "DOCKER-USER -p tcp -j ACCEPT"),
    firewall(
        *("passed by in FORWARD", "ahead as declared", "[]", "ACCEPT"),
        "FORWARD -p tcp --dport 11434 -j ACCEPT",
    ),
    firewall("with a hole", "foreign rules among ours", "[]", "RETURN", "PROVISION -p tcp -j RETURN"),
    Lie(
        *("driver broken", "require:cards", "nvidia-smi answers", "yes", "the NVIDIA driver is not loaded"),
        fault=("HOST", "driver-broken"),
        also=CARDS,
    ),
    Lie(
        *("Docker stopped", "service:docker", "answers", "0", "3", "systemctl stop docker.socket docker.service"),
        also=(*DOCKER, "service:provision-instances"),
    ),
    Lie(
        *("a client's keep_alive", "resident:ollama1", f"{MODEL}: stays loaded", "for ever", "by the keep_alive of a"),
        script=ask("generate", keep_alive="5m"),
        undo=ask("generate", keep_alive=-1),
    ),
)

BALANCER = (
    config(
        "upstream edited", "upstream (port, weight, max_conns)", "1, 5]", "1, 15]", f"sed -i 's/conns=/&1/' {UPSTREAM}"
    ),
    config(
        *("a server more", "servers without an instance", "[]", "127.0.0.1:3999"),
        f"sed -i '0,/ server /s// server 127.0.0.1:3999;&/' {UPSTREAM}",
    ),
    config(
        *("not loaded", "nginx has loaded the present configuration", OLDER[-12:], ""),
        f"cp -r $(readlink {NGINX}) {OLDER}; ln -sfn {OLDER} {NGINX}",
    ),
    Lie(
        *("a port more", "listen:nginx", "listens on", "3008", "3009"),
        f"sed -i 's/listen 0.0.0.0:3008;/& listen 0.0.0.0:3009;/' {NGINX}/site.conf; {RELOAD}",
        also=SERVICE,
    ),
    config(
        *("a port that the next reload closes", "files as declared", "'nginx.conf'", "'nginx.conf'"),
        f"sed -i '/include site.conf/d' {NGINX}/nginx.conf",
    ),
    config("open to pulls", "refused", "403", "200", f"sed -i 's/return 403/return 200/' {NGINX}/site.conf; {RELOAD}"),
    Lie(
        *("nginx killed", "service:provision-nginx", "running", "True", "False"),
        "kill $(cat /run/provision-nginx/nginx.pid); sleep 1",
        also=SERVICE,
    ),
)


@dataclass
class Verdict:
    """Verify's answer about one row of lies.

    Args:
        done: the result of `verify --json --junit`.
        cases: host -> step -> text of the failure in the JUnit file, or empty.
    """

    done: Done
    cases: dict[str, dict[str, str]] = field(default_factory=dict)

    def failed(self, host: str) -> list[dict[str, Any]]:
        """The failed checks of a host."""
        return [check for check in self.done.host(host)["checks"] if not check["passed"]]


def rows() -> list[dict[str, Lie]]:
    """The lies told together, one on each host."""
    hosts = ("gpu-01", "gpu-02", "lb-01")
    lies = zip_longest(GPU[::2], GPU[1::2], BALANCER)
    return [{host: lie for host, lie in zip(hosts, row, strict=True) if lie} for row in lies]


class Verdicts:
    """Tells a row of lies when a test asks for verify's answer."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._given: dict[Lie, tuple[str, Verdict]] = {}

    def of(self, lie: Lie) -> tuple[str, Verdict]:
        """The host of a lie, and the verdict."""
        if lie not in self._given:
            row = next(row for row in rows() if lie in row.values())
            verdict = self._try(row)
            self._given |= {one: (host, verdict) for host, one in row.items()}
        return self._given[lie]

    def _try(self, row: dict[str, Lie]) -> Verdict:
        hosts = [self.fleet.lab.host(name) for name in row]
        try:
            self.fleet.lab.each(lambda host: self._tell(host, row[host.name], on=True), hosts)
            return verify(self.fleet)
        finally:
            self.fleet.lab.each(lambda host: self._tell(host, row[host.name], on=False), hosts)
            if self.fleet.provision("deploy", "--yes", "--json").code:
                self.fleet.lab.restore(label=DEPLOYED)
                settle(self.fleet)

    def _tell(self, host: Any, lie: Lie, *, on: bool) -> None:
        if lie.fault:
            target, name = lie.fault
            faults.switch(self.fleet.lab, target.replace("HOST", host.name), name, on=on)
        script = lie.script if on else lie.undo
        if script:
            host.run(["sh", "-euc", script])


def verify(fleet: Fleet) -> Verdict:
    """Run verify, and read its files."""
    path = fleet.folder / "junit.xml"
    path.unlink(missing_ok=True)
    done = fleet.provision("verify", "--json", "--junit", str(path))
    verdict = Verdict(done)
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314 - our own file
        failure = case.find("failure")
        text = "" if failure is None else failure.text or "without a word"
        verdict.cases.setdefault(case.attrib["classname"], {})[case.attrib["name"]] = text
    return verdict


@pytest.fixture(scope="module")
def verdicts(lab, first_deploy, tmp_path_factory):
    return Verdicts(Fleet(lab, tmp_path_factory.mktemp("verify")))


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param(lie, id=str(lie), marks=[pytest.mark.matrix] if number % 2 else [])
        for number, row in enumerate(rows())
        for lie in row.values()
    ],
)
def test_a_lie_is_found_and_named(verdicts, lie):
    host, verdict = verdicts.of(lie)
    failed = verdict.failed(host)
    print(verdict.done.err, failed)
    assert verdict.done.code == 5
    found = [check for check in failed if (check["step"], check["name"]) == (lie.step, lie.check)]
    assert len(found) == 1
    assert lie.expected in str(found[0]["expected"])
    assert lie.got in str(found[0]["got"])
    assert {check["step"] for check in failed} <= {lie.step, *lie.also}
    said = verdict.cases[host][lie.step]
    assert "differs from the inventory:" in said or all(word in said for word in (lie.check, "expected", "got"))


def test_a_true_state_passes(fleet):
    verdict = verify(fleet)
    assert verdict.done.code == 0, verdict.done
    assert {said for cases in verdict.cases.values() for said in cases.values()} == {""}
    inventory = role_interface.load(str(fleet.lab.inventory))
    ids = {host.name: [entry.step.id for entry in role_interface.steps(host, inventory)] for host in inventory.hosts}
    asked = {host.name: [f"neighbour:{one.name}" for one in host.instances] for host in inventory.hosts}
    assert {host: list(verdict.cases[host]) for host in ids} == {host: ids[host] + asked[host] for host in ids}


def test_the_document_is_as_designed(verdicts):
    document = verdicts.of(GPU[0])[1].done.doc
    checks = [check for host in document["hosts"] for check in host["checks"]]
    assert document.keys() >= {"schema", "command", "exit", "warnings", "hosts", "summary"}
    assert (document["schema"], document["command"], document["exit"]) == (1, "verify", 5)
    assert {frozenset(host) for host in document["hosts"]} == {frozenset({"host", "result", "why", "checks"})}
    assert {host["result"] for host in document["hosts"]} <= {"passed", "failed"}
    assert all(check.keys() == {"step", "role", "name", "passed", "got", "expected"} for check in checks)
    passed = sum(check["passed"] for check in checks)
    assert document["summary"] == {
        "hosts": 3,
        "unreachable": 0,
        "checks": len(checks),
        "passed": passed,
        "failed": len(checks) - passed,
    }


def test_an_unreachable_host_is_in_every_report(fleet):
    faults.switch(fleet.lab, "gpu-02", "ssh-reset", on=True)
    try:
        verdict = verify(fleet)
    finally:
        faults.switch(fleet.lab, "gpu-02", "ssh-reset", on=False)
    assert verdict.done.code == 4, verdict.done
    results = {host["host"]: host["result"] for host in verdict.done.doc["hosts"]}
    # plan would mark its instances down, so the balancer is not as wanted either
    assert results == {"gpu-01": "passed", "gpu-02": "unreachable", "lb-01": "failed"}
    assert {check["step"] for check in verdict.failed("lb-01")} == {"config:balancer"}
    assert verdict.done.host("gpu-02")["why"]
    assert verdict.done.doc["summary"]["unreachable"] == 1
    assert verdict.done.doc["exit"] == 4
    assert list(verdict.cases["gpu-02"]) == ["connection"]
    assert all(verdict.cases["gpu-02"].values())


def test_verify_of_other_settings_than_were_deployed_fails_as_plan_would_change(fleet):
    done = fleet.provision("verify", "--json", "-e", "ollama.context_length=8192")
    planned = fleet.changes("-e", "ollama.context_length=8192")
    failed = {
        host["host"]: {check["step"] for check in host["checks"] if not check["passed"]} for host in done.doc["hosts"]
    }
    assert done.code == 5
    assert planned["gpu-01"]
    assert failed == {host: set(steps) for host, steps in planned.items()}


def test_verify_does_not_load_a_model_that_is_not_loaded(fleet):
    host = fleet.lab.host("gpu-01")
    loaded = f"curl -sf http://{AT}/api/ps"
    host.run(["sh", "-euc", ask("generate", keep_alive=0)])
    try:
        done = fleet.provision("verify", "--json")
        after = host.run(["sh", "-euc", loaded]).stdout
    finally:
        fleet.deploy()
    failed = [check for check in done.host("gpu-01")["checks"] if not check["passed"]]
    assert done.code == 5
    assert {check["step"] for check in failed} == {"resident:ollama1"}
    assert json.loads(after)["models"] == []
    assert any(check["name"].startswith("not asked: a streamed answer") for check in done.host("lb-01")["checks"])


def test_an_instance_that_is_much_slower_than_its_equals_is_found(fleet):
    """A host under load may not answer quietly enough to be measured; verify says so, and a later verify measures."""
    until, unasked = time.monotonic() + 240, []
    faults.switch(fleet.lab, "gpu-01/ollama1", "slow", on=True)
    try:
        while True:
            done = fleet.provision("verify", "--json", "--limit", "gpu-*")
            checks = [check for host in done.doc["hosts"] for check in host["checks"]]
            if done.code != 0 or time.monotonic() > until:
                break
            unasked += [check["name"] for check in checks if check["name"].startswith(NOT_ASKED)]
            fleet.on("lb-01", "systemctl", "restart", "provision-nginx")  # ends requests of earlier tests
    finally:
        faults.switch(fleet.lab, "gpu-01/ollama1", "slow", on=False)
    if unasked:
        warnings.warn(f"not every verify measured the speed: {unasked}", stacklevel=1)
    assert done.code == 5, unasked
    [failed] = [check for check in checks if not check["passed"]]
    assert (failed["step"], failed["expected"]) == ("resident:ollama1", "not more than 4 times slower than the median")
    assert failed["name"].startswith(f"speed of {MODEL} on "), failed
    assert re.match(r"6\.0 tokens per second, and the median of [34] instances is 60\.0", failed["got"]), failed


def test_people_read_step_expected_and_got(fleet):
    host = fleet.lab.host("gpu-01")
    opened = listener("127.0.0.1", 3001)
    host.run(["sh", "-euc", opened["script"]])
    try:
        done = fleet.provision("verify", "--limit", "gpu-01")
    finally:
        host.run(["sh", "-euc", opened["undo"]])
    assert done.code == 5, done
    failure = done.out[done.out.index("gpu-01  container:ollama1") :]
    assert "  listens elsewhere\n    expected none\n    got      127.0.0.1\n" in failure
    assert "gpu-01  FAILED" in done.out
    assert "passed  " not in done.out
    last = done.out.strip().splitlines()[-1]
    assert " checks passed on 2 hosts · next: provision verify" in last
