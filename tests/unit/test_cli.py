"""The command line: exit codes, no tracebacks, and a start that imports nothing heavy."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from provision.actions import exit_code
from provision.errors import BugError, CommandError, LockedError, UnreachableError
from provision.rollout.waves import Outcome
from provision.runs.context import Stopped

HEAVY = {"fabric", "paramiko", "pydantic", "jinja2", "yaml", "pytest", "testinfra", "rich"}


def provision(*words, stdin=subprocess.DEVNULL, env=None):
    argv = [sys.executable, "-m", "provision", *words]
    environment = {**os.environ, **(env or {})}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, stdin=stdin, env=environment)


@pytest.fixture
def inventory(tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
        "gpu: {hosts: {box: {ansible_host: 127.0.0.1, ansible_port: 1, ollama: {instances: [{gpus: [0]}]}}}}\n"
    )
    return str(path)


def test_help_imports_nothing_heavy():
    probe = "import sys, provision.cli as c; c.execute(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in done.stderr.split()}


def test_plan_does_not_import_what_verify_needs():
    probe = "import sys, provision.cli as c; c.execute(['plan', '-i', '/none']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert not {"pytest", "testinfra", "rich"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["depoly"], "did you mean deploy"),
        (["plan", "--inventry", "x"], "--inventory"),
        (["plan", "-i", "/does/not/exist"], "/does/not/exist"),
        (["plan", "-i", "INVENTORY", "-l", "bxo"], "did you mean box"),
        (["plan", "-i", "INVENTORY", "-t", "dokcer"], "dokcer"),
        (["deploy", "-i", "INVENTORY"], "--yes"),
        (["plan", "-i", "INVENTORY", "-e", "ollama.imgae=x"], "image"),
        (["verify", "-i", "INVENTORY", "-f", "0"], "0"),
    ],
)
def test_wrong_usage_is_exit_2_and_names_the_wrong_word_or_a_near_word(words, said, inventory):
    done = provision(*(inventory if word == "INVENTORY" else word for word in words))
    assert done.returncode == 2, done
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [["plan"], ["deploy", "--yes"], ["verify"]])
def test_an_unreachable_host_is_exit_4_and_in_the_document(command, inventory):
    done = provision(*command, "-i", inventory, "--json")
    assert done.returncode == 4, done
    document = json.loads(done.stdout)
    assert (document["schema"], document["command"], document["exit"]) == (1, command[0], 4)
    assert [(host["host"], host["result"]) for host in document["hosts"]] == [("box", "unreachable")]
    assert "connection refused" in document["hosts"][0]["why"]


def test_the_recap_names_every_host_and_the_next_command(inventory):
    done = provision("deploy", "--yes", "-i", inventory)
    assert "box" in done.stdout
    assert "UNREACHABLE" in done.stdout
    assert f"again: provision deploy -i {inventory}" in done.stdout


def test_the_order_of_exit_codes_if_several_apply():
    assert [code for _, code in exit_code.EXIT_BY_RESULT] == [130, 3, 6, 4]


@pytest.mark.parametrize(
    ("interrupted", "guarded", "errors", "code"),
    [
        (True, "the canary failed", [BugError(KeyError("x")), Stopped("no")], 130),
        (False, "the canary failed", [BugError(KeyError("x")), Stopped("no")], 1),
        (False, "the canary failed", [CommandError("no"), Stopped("no"), UnreachableError("no")], 7),
        (False, "", [CommandError("no"), BugError(KeyError("x"))], 1),
        (False, "", [UnreachableError("no"), LockedError("no"), CommandError("no")], 3),
        (False, "", [UnreachableError("no"), LockedError("no"), None], 6),
        (False, "", [None], 0),
    ],
)
def test_a_bug_counts_more_than_a_guard_and_an_interrupt_more_than_both(interrupted, guarded, errors, code):
    rollout = SimpleNamespace(interrupted=interrupted, guarded=guarded, guard_exit=7)
    assert exit_code.of_run(rollout, [Outcome("box", error=error) for error in errors]) == code


def test_a_bug_is_reported_in_a_few_lines_without_a_traceback(inventory, tmp_path):
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import provision.plan.role_interface as s\ndef load(*a, **k): raise KeyError('surprise')\ns.load = load\n"
    )
    done = provision("plan", "-i", inventory, env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "surprise" in done.stderr


WRITERS = [
    *(["inventory", "check"], ["inventory", "show"], ["plan"], ["plan", "--json"], ["plan", "--list-steps"]),
    *(["deploy", "--yes"], ["verify"], ["history"], ["lock", "status"], ["undrain", "--all"]),
]


@pytest.mark.parametrize("words", [*WRITERS[-4:], ["plan", "--json"], ["help", "deploy"], ["--version"]])
def test_a_reader_that_has_gone_is_exit_141_without_a_word(words, inventory):
    argv = [sys.executable, "-m", "provision", *words]
    own = ["-i", inventory] if words in WRITERS else []
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [*argv, *own], stdout=write, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert "error" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("words", WRITERS)
def test_a_full_disk_behind_stdout_is_an_error_and_no_bug(words, inventory):
    argv = [sys.executable, "-m", "provision", *words, "-i", inventory]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 1
        assert "error: standard output cannot be written: No space left on device\n" in done.stderr
        assert "bug" not in done.stderr
        assert "Exception ignored" not in done.stderr
        nobody = subprocess.run(argv, stdout=full, stderr=full, stdin=subprocess.DEVNULL)
        assert nobody.returncode == 1
        remarks = subprocess.run(argv, stdout=subprocess.PIPE, stderr=full, text=True, stdin=subprocess.DEVNULL)
        assert remarks.returncode in (0, 4), "what cannot be said on stderr changes nothing"
        assert remarks.stdout


@pytest.mark.parametrize("command", [["plan"], ["deploy", "--yes"], ["verify"]])
def test_a_faulty_inventory_gives_a_json_document_too(command, tmp_path):
    path = tmp_path / "inventory.yaml"
    path.write_text("gpu: {hosts: {box: {ollama: {instnaces: []}}}}\n")
    done = provision(*command, "-i", str(path), "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["exit"], document["hosts"]) == (2, 2, [])
    assert any("instnaces" in problem["path"] for problem in document["error"]["problems"])
    assert "instnaces" in done.stderr


def test_the_next_command_keeps_tags_and_the_names_of_extra_variables(inventory):
    done = provision("deploy", "--yes", "-i", inventory, "-t", "docker", "-e", "docker.log_max_file=5")
    assert f"again: provision deploy -i {inventory} -e docker.log_max_file=... -t docker" in done.stdout


def test_the_next_command_keeps_the_options_of_the_pace(inventory):
    done = provision("deploy", "--yes", "-i", inventory, "--max-fail", "0", "--serial", "25%", "--canary")
    assert done.returncode == 7, done
    assert f"again: provision deploy -i {inventory} --canary --serial 25% --max-fail 0\n" in done.stdout


def test_a_resumed_run_keeps_its_pace_except_for_given_options(inventory, tmp_path):
    env = {"XDG_STATE_HOME": str(tmp_path)}
    first = provision("deploy", "--yes", "-i", inventory, "--canary", "--serial", "25%", env=env)
    [run] = [path.stem for path in tmp_path.rglob("*.json")]
    again = provision("deploy", "--yes", "--resume", run, "--serial", "2", env=env)
    assert first.returncode == again.returncode == 7
    assert " --canary --serial 2\n" in again.stdout


def test_the_pytest_settings_of_the_user_leave_out_no_proof(inventory, tmp_path):
    (tmp_path / "conftest.py").write_text("raise RuntimeError('not yours')\n")
    argv = [sys.executable, "-m", "provision", "verify", "-i", inventory, "--json", "--junit", "junit.xml"]
    environment = {**os.environ, "PYTEST_ADDOPTS": "--collect-only"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment, timeout=60)
    assert done.returncode == 4, done
    assert json.loads(done.stdout)["hosts"][0]["result"] == "unreachable"
    assert '<testcase classname="box" name="connection"' in (tmp_path / "junit.xml").read_text()
