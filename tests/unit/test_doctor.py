"""Every file in tests/doctor/<check>/ is a case: the answers of a host, the state, and the findings.

check:      name of the check; several checks may have one name in one folder
host:       gpu-01 (the default) or lb-01, of INVENTORY
settings:   sections of the inventory for all hosts
facts:      host facts, as HostFacts takes them; cards as Card takes them
clock:      this machine's clock before and after the read
answers:    of the reads, in order; a text stands for standard output
state:      of the parser; missing where the parser refuses the answer
findings:   the verdicts

After an intended change, PROVISION_GOLDEN=write writes states and findings anew. Read the diff.
"""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from provision import actions, testing
from provision.command import Answer, Run, describe, look
from provision.doctor import outside
from provision.doctor.check import Check, Subject
from provision.doctor.checks import CHECKS
from provision.doctor.examine import Diagnosis, examine
from provision.doctor.finding import risk
from provision.errors import HostKeyError, RefusedError, UnreachableError
from provision.inventory import Connection, Host, Inventory
from provision.plan import role_interface
from provision.report import doctor as report
from provision.steps.base import BlockedError, UnreadableError
from provision.steps.docker import image_room
from provision.steps.facts import HostFacts
from provision.steps.nvidia_smi import Card
from provision.steps.ollama import model_header

CASES = sorted((Path(__file__).parents[1] / "doctor").glob("*/*.yaml"))
INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts: {gpu-01: {ansible_host: 10.0.0.11, ansible_user: ops}}
  vars: {ollama: {models: ["deepseek-r1:1.5b"], instances: [{gpus: [0]}, {gpus: [1]}]}}
balancer: {hosts: {lb-01: {ansible_host: 10.0.0.5}}}
"""
FACTS = {
    "distribution": "debian",
    "version": "13",
    "codename": "trixie",
    "architecture": "amd64",
    "addresses": ["10.0.0.11"],
    "sources": {"10.0.0.5": "10.0.0.11"},
    "clock": 1000,
}
CARD = {
    "name": "NVIDIA L40S",
    "driver": "580.95.05",
    "compute_cap": 8.9,
    "memory_mib": 46068,
    "persistent": True,
}


def inventory_of(folder: Path, settings: dict[str, Any] | None = None) -> Inventory:
    path = folder / "inventory.yaml"
    tree = yaml.safe_load(INVENTORY)
    for section, values in (settings or {}).items():
        tree["all"]["vars"].setdefault(section, {}).update(values)
    if "vip" in tree["all"]["vars"].get("balancer", {}):
        tree["balancer"]["hosts"]["lb-02"] = {"ansible_host": "10.0.0.6"}
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return role_interface.load(str(path))


def facts_of(case: dict[str, Any]) -> HostFacts:
    values = {**FACTS, **case.get("facts", {})}
    cards = values.pop("cards", [{}, {}])
    made = [{"index": n, "uuid": f"GPU-{n:08d}", **CARD, **card} for n, card in enumerate(cards)]
    return HostFacts(**{**values, "cards": tuple(Card(**card) for card in made)})


def answers_of(case: dict[str, Any], reads: tuple[Run, ...]) -> list[Answer]:
    given = [{"stdout": entry} if isinstance(entry, str) else entry for entry in case.get("answers", [])]
    given += [{}] * (len(reads) - len(given))
    return [
        Answer(entry.get("exit", 0), entry.get("stdout", "").encode(), entry.get("stderr", "").encode())
        for entry in given
    ]


def judged(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the state and the findings of a case, as a data file has them."""
    inventory = inventory_of(folder, case.get("settings"))
    host = inventory.host(case.get("host", "gpu-01"))
    check = next(check for check in CHECKS if check.name == case["check"])
    look = check.look(host, inventory)
    assert look is not None
    answers = answers_of(case, look.reads)
    asked, answered = case.get("clock", [1000, 1001])
    subject = Subject(host, inventory, facts_of(case), asked, answered)
    found = [*check.findings(look, answers, subject)]
    shown = [{key: value for key, value in vars(finding).items() if value and key != "check"} for finding in found]
    for finding in shown:
        finding.update(
            {key: text.replace(inventory.path, "inventory.yaml") for key, text in finding.items() if text is not True}
        )
    try:
        state = json.loads(json.dumps(look.parse(answers)))
    except (UnreadableError, BlockedError):
        return {"findings": shown}
    return {**({"state": state} if state else {}), "findings": shown}


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_host_with_these_answers(path: Path, tmp_path: Path) -> None:
    case = yaml.safe_load(path.read_text())
    found = judged(case, tmp_path)
    if os.environ.get("PROVISION_GOLDEN") == "write":
        kept = {key: value for key, value in case.items() if key not in ("state", "findings")}
        path.write_text(yaml.safe_dump({**kept, **found}, width=118, sort_keys=False, allow_unicode=True))
        case = {**kept, **found}
    assert found == {key: case[key] for key in ("state", "findings") if key in case}


def test_every_check_has_cases_of_every_verdict_that_it_can_give() -> None:
    seen: dict[str, set[str]] = {}
    for path in CASES:
        case = yaml.safe_load(path.read_text())
        seen.setdefault(case["check"], set()).update(finding["verdict"] for finding in case["findings"])
    assert set(seen) == {check.name for check in CHECKS}
    alone = {name for name, verdicts in seen.items() if len(verdicts) < 2}
    assert alone == {"ssh"}, "an unreachable host is the other verdict of ssh"


def test_every_finding_but_a_pass_has_a_cure_that_a_shell_can_read() -> None:
    for path in CASES:
        for finding in yaml.safe_load(path.read_text())["findings"]:
            assert bool(finding.get("cure")) == (finding["verdict"] != "pass"), path
            assert shlex.split(finding.get("cure", "")) or finding["verdict"] == "pass"


def test_the_copied_models_share_blobs_and_no_manifest_with_the_native_server(tmp_path: Path) -> None:
    """A server writes a manifest in place, so a shared file would change the models of the other servers."""
    case = yaml.safe_load((CASES[0].parents[1] / "native/models_into_folders.yaml").read_text())
    (cure,) = (finding["cure"] for finding in case["findings"] if "without a download" in finding["says"])
    native, ours = tmp_path / "usr/share/ollama/.ollama/models", tmp_path / "data/ollama/ollama1/models"
    for name in ("blobs/sha256-1", "manifests/registry.ollama.ai/library/m/1"):
        (native / name).parent.mkdir(parents=True)
        (native / name).write_text(name)
    pulled = ("blobs/sha256-2", "manifests/registry.ollama.ai/library/own/1")
    for name in pulled:  # by the instance itself: an equal blob, and a newer manifest
        (ours / name).parent.mkdir(parents=True)
        (native / name).parent.mkdir(parents=True, exist_ok=True)
        (ours / name).write_text(f"{name} of ours")
        (native / name).write_text(name)
        os.utime(native / name, (1, 1))
    text = cure.replace("/usr/share", f"{tmp_path}/usr/share").replace("/data/", f"{tmp_path}/data/")
    for _ in range(2):
        subprocess.run(["sh", "-euc", text], check=True, timeout=30)
    assert (ours / "blobs/sha256-1").samefile(native / "blobs/sha256-1")
    manifest = "manifests/registry.ollama.ai/library/m/1"
    assert (ours / manifest).read_text() == manifest
    assert not (ours / manifest).samefile(native / manifest)
    assert (ours / pulled[1]).read_text() == f"{pulled[1]} of ours"


class Unreachable(testing.FakeHost):
    """A host that refuses in one way."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def batch(self, *args: Any, **kwargs: Any) -> list[Answer]:
        raise self.error


@pytest.mark.parametrize(
    ("error", "failed", "cure"),
    [
        (UnreachableError("tcp 10.0.0.11:22 connection refused", "is sshd there?"), "ssh", "ssh -v ops@10.0.0.11 true"),
        (HostKeyError("the host key of 10.0.0.11 is not known"), "ssh", "provision trust -i inventory.yaml -l gpu-01"),
        (
            HostKeyError("the host key of 10.0.0.11:22 has CHANGED"),
            "ssh",
            "provision trust --replace -i inventory.yaml -l gpu-01",
        ),
        (RefusedError("sudo asks for a password"), "sudo", "provision doctor -K -i inventory.yaml -l gpu-01"),
        (RefusedError("the user may not use sudo"), "sudo", "usermod -aG sudo ops"),
        (RefusedError("sudo is not installed"), "sudo", "apt-get install sudo && usermod -aG sudo ops"),
    ],
)
def test_a_host_without_an_answer_is_a_failed_check_and_its_other_checks_are_left_out(error, failed, cure, tmp_path):
    inventory = inventory_of(tmp_path)
    found = examine(inventory.host("gpu-01"), inventory, Unreachable(error))
    (bad,) = [finding for finding in found.findings if finding.verdict == "fail"]
    assert (bad.check, bad.cure.replace(inventory.path, "inventory.yaml")) == (failed, cure)
    assert "disks" in found.left_out
    assert found.verdict == "fail"


def test_every_read_of_a_host_is_in_one_exec_and_nothing_is_written(tmp_path: Path) -> None:
    inventory = inventory_of(tmp_path)
    for host in inventory.hosts:
        fake = testing.FakeHost()
        examine(host, inventory, fake)
        assert fake.execs == 1
        assert fake.files == {}
        assert all(isinstance(command, Run) for command in fake.commands)
        assert len(fake.commands) == len(set(fake.commands))


def test_an_unreachable_host_leaves_the_other_hosts_alone(tmp_path: Path) -> None:
    path = inventory_of(tmp_path).path
    lost, there = Unreachable(UnreachableError("no route")), testing.FakeHost()

    def connect(connection, password, paths):
        return lost if connection.address == "10.0.0.11" else there

    result = actions.doctor(actions.Request(path, setup=testing.setup(tmp_path, connect)))
    assert [host.host for host in result.hosts] == ["gpu-01", "lb-01"]
    assert result.exit_code == 5
    assert there.execs == 1


def test_a_bug_on_one_host_is_no_verdict(tmp_path: Path) -> None:
    request = actions.Request(
        inventory_of(tmp_path).path, setup=testing.setup(tmp_path, Unreachable(KeyError("x")).connect)
    )
    result = actions.doctor(request)
    assert result.exit_code == 1
    assert [name for name, _ in result.bugs] == ["gpu-01", "lb-01"]


def test_a_proxys_password_rides_on_standard_input_alone(tmp_path: Path) -> None:
    inventory = inventory_of(tmp_path, {"proxy": {"https": "http://user:canary@proxy.test:3128"}})
    fake = testing.FakeHost(reply=lambda run: Answer(1, b"", b"http://user:canary@proxy.test refused"))
    found = examine(inventory.host("gpu-01"), inventory, fake)
    assert "canary" not in "".join(map(describe, fake.commands))
    assert sum(b"canary" in command.stdin for command in fake.commands if isinstance(command, Run)) >= 2
    assert "canary" not in repr(found)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=8), st.integers(0, 255))
def test_any_answer_gives_findings_and_no_exception(bodies: list[bytes], code: int) -> None:
    for check, reads, subject in looks():
        answers = [Answer(code, body) for body in [*bodies, *[b""] * 20][: len(reads.reads)]]
        for finding in check.findings(reads, answers, subject):
            assert finding.says
            assert finding.check == check.name


def looks() -> list[tuple[Check, Any, Subject]]:
    """Return the looks of every host, each with its subject."""
    import tempfile

    if not LOOKS:
        with tempfile.TemporaryDirectory() as folder:
            inventory = inventory_of(Path(folder))
        for host in inventory.hosts:
            subject = Subject(host, inventory, facts_of({}), 0, 1)
            LOOKS.extend((check, made, subject) for check in CHECKS if (made := check.look(host, inventory)))
    return LOOKS


LOOKS: list[tuple[Check, Any, Subject]] = []


def test_a_long_cure_is_shown_to_its_end() -> None:
    cure = " && ".join(f"mkdir -p /srv/models/ollama{number}/models" for number in range(64))
    shown = " ".join(report._cure(risk("copy", cure)))
    assert shown.replace("\\", "").split()[4:] == cure.split()


def test_the_worst_finding_is_the_verdict_of_a_host() -> None:
    assert Diagnosis("a", ()).verdict == "pass"


class Outside(BaseHTTPRequestHandler):
    """A mirror with faults, on loopback. It knows no ranges."""

    def do_GET(self) -> None:
        code = {"/v2/": 401, "/gone": 404, "/wall": 407}.get(self.path, 200)
        code = code if "manifest.v2+json" in self.headers["Accept"] else 404
        page = b"<!DOCTYPE html><html>log in</html>" if self.path == "/portal" else b"Origin: mirror\n"
        self.send_response(code)
        self.send_header("Content-Length", str(10**10 if self.path == "/large" else len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


def test_the_probe_names_each_fault_of_a_real_server() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Outside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        paths = ["/InRelease", "/portal", "/gone", "/wall", "/v2/"]
        urls = [*(base + path for path in paths), f"http://127.0.0.1:{closed.getsockname()[1]}/", "http://no.invalid/"]
        urls += [base + "/large", base + "/portal"]
        purposes = {len(urls) - 1: outside.REGISTRY}
        asked = [outside.Outside(url, purposes.get(n, "packages"), f"key{n}", url) for n, url in enumerate(urls)]
        run = look(outside.PROBE, *urls, title="probe", timeout=60)
        (answer,) = testing.ShellHost().batch([run], stop=False)
    server.shutdown()
    server.server_close()
    state = outside.parse(asked, answer)
    assert [entry["probe"] for entry in state["answers"]] == urls
    says = {finding.says.partition(": ")[0]: finding.says for finding in outside.judge(state, SUBJECT)}
    expected = {"key1": "web page", "key2": "404", "key3": "407", "key4": "401", "key5": "refuses", "key6": "resolve"}
    expected |= {"key8": "web page"}
    assert set(says) == {"reached", *expected}
    assert {key: text for key, text in expected.items() if text not in says[key]} == {}


@pytest.mark.parametrize(
    "script", [outside.PROBE, image_room.SIZE, model_header.HEADER], ids=["probe", "image", "model"]
)
def test_a_read_without_a_temporary_folder_asks_nobody_and_writes_nowhere_else(script, tmp_path):
    """On a full disk `mktemp` fails, and a read goes on after a failure: its files, logins too, would be in `/`."""
    (tmp_path / "curl").write_text('#!/bin/sh\ntouch "${0%/*}/asked"\n')
    (tmp_path / "curl").chmod(0o755)
    run = look(script, *("http://127.0.0.1:1/x",) * 6, title="look")
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path / "full")}
    done = subprocess.run(run.words, input=run.stdin, env=variables, capture_output=True, check=False, timeout=30)
    assert (done.returncode, (tmp_path / "asked").exists()) == (1, False)
    assert b"mktemp" in done.stderr


@pytest.mark.parametrize(
    ("mirror", "verdict", "words"),
    [("http://u:canary@m.test", "fail", "refuses the login of the inventory"), ("http://m.test", "fail", "no login")],
)
def test_a_refused_login_is_told_from_a_login_that_nobody_declared(tmp_path, mirror, verdict, words):
    inventory = inventory_of(tmp_path, {"mirrors": {"docker": mirror}})
    subject = Subject(inventory.host("gpu-01"), inventory, facts_of({}))
    entry = {"address": "http://m.test", "purpose": "packages", "key": "mirrors.docker", "probe": "http://m.test/x"}
    entry |= {"exit": 0, "code": "401", "page": True, "why": ""}
    (found,) = outside.judge({"curl": True, "answers": [entry]}, subject)
    assert (found.verdict, words in found.says) == (verdict, True)


def test_a_card_named_by_index_and_by_uuid_fails_as_in_a_plan(tmp_path: Path) -> None:
    uuid = "GPU-11111111-1111-1111-1111-111111111111"
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY.replace("{gpus: [1]}", f"{{gpus: [{uuid}]}}"))
    inventory = role_interface.load(str(path))
    subject = Subject(inventory.host("gpu-01"), inventory, facts_of({"facts": {"cards": [{"uuid": uuid}]}}))
    (driver,) = [check for check in CHECKS if check.name == "driver"]
    (found,) = driver.judge({}, subject)
    assert (found.verdict, "are the same card" in found.says) == ("fail", True)


def test_every_script_is_read_by_a_shell_of_this_machine(tmp_path: Path) -> None:
    """The answers are those of this machine, whatever it is: each has the form that its parser wants."""
    inventory = inventory_of(tmp_path)
    for check in CHECKS:
        look_of = check.look(inventory.host("gpu-01"), inventory)
        if look_of is None or check.name in ("apt", "outside", "disks", "memory"):
            continue
        answers = testing.ShellHost().batch(look_of.reads, stop=False)
        with contextlib.suppress(BlockedError):
            assert look_of.parse(answers) is not None, check.name


SUBJECT = Subject(
    Host(name="gpu-01", connection=Connection(address="10.0.0.11")), Inventory(path="x", hosts=()), HostFacts()
)
