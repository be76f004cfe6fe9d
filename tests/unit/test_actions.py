"""The actions as a library: arguments, return values, and the part of the caller."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from provision import actions, cli, testing
from provision.cli.caller import Caller
from provision.errors import UsageError
from provision.plan.role_interface import Entry
from provision.report import recap
from provision.runs.log import Logs, default_folder
from provision.testing import ShellHost

from .test_host_run import Note

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "library.md"
HEAVY = {"click", "fabric", "jinja2", "locust", "paramiko", "pydantic", "pytest", "rich", "testinfra", "yaml"}
INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts:
    gpu-01: {ansible_host: 192.0.2.1, ollama: {instances: [{gpus: [0]}]}}
    gpu-02: {ansible_host: 192.0.2.2, ollama: {instances: [{gpus: [0]}]}}
"""


@pytest.fixture
def noting(tmp_path, monkeypatch):
    """A function that makes a setup of two hosts on this machine's shell; each wants a note in the folder."""
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    monkeypatch.chdir(tmp_path)

    def steps(host, inventory):
        return (Entry("docker", Note(str(tmp_path / f"{host.name}.note"))),)

    return lambda connect=None: testing.setup(tmp_path, connect, steps=steps, owned=())


@pytest.fixture
def request_of(noting):
    """A function that makes a Request for the hosts."""
    return lambda **words: actions.Request("inventory.yaml", tags=("docker",), **{"setup": noting(), **words})


def notes(folder):
    return sorted(path.name for path in folder.glob("*.note"))


def test_importing_the_actions_imports_nothing_heavy():
    program = "import sys; from provision import actions; print(actions.deploy, *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not HEAVY & {name.split(".")[0] for name in done.stdout.split()}


def test_a_plan_names_the_changes_and_changes_nothing(request_of, tmp_path, capfd):
    plan = actions.plan(request_of())
    changes = {outcome.host: [str(change.step.id) for change in outcome.plan.changes] for outcome in plan.outcomes}
    assert changes == {"gpu-01": ["note:gpu-01.note"], "gpu-02": ["note:gpu-02.note"]}
    assert (plan.exit_code, plan.drift_exit_code, plan.changes, plan.is_none) == (0, 5, True, False)
    assert notes(tmp_path) == []
    assert capfd.readouterr() == ("", ""), "an action prints nothing"


def test_a_deploy_returns_the_outcome_of_every_host(request_of, tmp_path, capfd):
    events = []
    result = actions.deploy(request_of(limit=("gpu-01",)), listen=events.append)
    assert [(outcome.host, outcome.result) for outcome in result.outcomes] == [("gpu-01", "changed")]
    assert (result.exit_code, result.command, result.failed) == (0, "deploy", [])
    assert result.document()["hosts"][0]["changed"] == ["note:gpu-01.note"]
    assert notes(tmp_path) == ["gpu-01.note"]
    kinds = [event.kind for event in events if event.kind != "warning"]
    assert (kinds[0], kinds[-1]) == ("selected", "over")
    assert "changed" in kinds
    assert capfd.readouterr() == ("", ""), "an action prints nothing"
    assert Logs(default_folder()).find(result.run_id).exit == 0


def test_a_confirmed_plan_is_deployed(request_of, tmp_path):
    shown = []

    def confirm(plan):
        shown.append(plan)
        return True

    result = actions.deploy(request_of(), confirm=confirm)
    assert shown[0].changes
    assert (result.exit_code, notes(tmp_path)) == (0, ["gpu-01.note", "gpu-02.note"])


def test_a_declined_plan_changes_nothing_and_begins_no_run(request_of, tmp_path):
    told = []
    result = actions.deploy(request_of(), confirm=lambda plan: False, tell=told.append)
    assert (result.exit_code, result.run_id, told) == (130, "", [])
    assert notes(tmp_path) == []
    assert not default_folder().exists(), "a run that does not begin has no log"


def test_a_deploy_without_a_planned_host_begins_no_run(request_of, noting):
    lost = noting(lambda connection, password, paths: ShellHost(paths, lost_at=frozenset({1})))
    result = actions.deploy(request_of(setup=lost), confirm=lambda plan: True)
    assert (result.exit_code, result.run_id) == (4, "")


MAX_FAIL = "1 host failed, and --max-fail allows 0"


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize(
    ("lost", "results"),
    [("192.0.2.1", ["unreachable", "stopped"]), ("192.0.2.2", ["changed", "unreachable"])],
)
def test_a_run_that_max_fail_stopped_names_the_guard_with_and_without_a_stopped_host(
    request_of, noting, capsys, quiet, lost, results
):
    def connect(connection, password, paths):
        return ShellHost(paths, lost_at=frozenset({1} if connection.address == lost else ()))

    pace = actions.Pace(serial="1", max_fail="0")
    result = actions.deploy(request_of(setup=noting(connect)), pace)
    assert [outcome.result for outcome in result.outcomes] == results
    assert (result.exit_code, result.guarded) == (7, MAX_FAIL)
    assert result.document()["guard"] == MAX_FAIL
    recap.show(result, as_json=False, warned=False, quiet=quiet)
    assert capsys.readouterr().out.count(MAX_FAIL) == 1


@pytest.mark.parametrize("max_fail", ["", "1"])
def test_a_run_without_a_guard_names_none(request_of, noting, capsys, max_fail):
    lost = noting(lambda connection, password, paths: ShellHost(paths, lost_at=frozenset({1})))
    result = actions.deploy(request_of(setup=lost, limit=("gpu-01",)), actions.Pace(max_fail=max_fail))
    assert (result.exit_code, result.guarded, result.document()["guard"]) == (4, "", "")
    recap.show(result, as_json=False, warned=False)
    assert "exit code" not in capsys.readouterr().out


def test_the_caller_gets_the_result_before_the_hook_after_the_deploy_runs(request_of, tmp_path):
    hook = tmp_path / "hooks" / "post-deploy"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\ntouch after\n")
    hook.chmod(0o755)
    seen = []
    result = actions.deploy(request_of(), tell=lambda result: seen.append((result, Path("after").exists())))
    assert seen == [(result, False)]
    assert Path("after").exists()


def test_a_verification_returns_the_checks_of_every_step(request_of, capfd):
    actions.deploy(request_of())
    proof = actions.verify(request_of())
    assert [(host.host, host.result) for host in proof.hosts] == [("gpu-01", "passed"), ("gpu-02", "passed")]
    assert proof.exit_code == 0
    assert capfd.readouterr().out == "", "an action prints nothing"


def test_a_warning_of_the_inventory_is_an_event_and_in_the_plan(request_of, tmp_path):
    (tmp_path / "inventory.yaml").write_text(INVENTORY + "spare: {hosts: {idle: {ansible_host: 192.0.2.9}}}\n")
    events = []
    plan = actions.plan(request_of(limit=("gpu-01",)), listen=events.append)
    warnings = [event.text for event in events if event.kind == "warning"]
    assert warnings == list(plan.warnings)
    assert any("idle" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: actions.Request("inventory.yaml", limit="gpu"), "limit must be a tuple of strings"),
        (lambda: actions.Request("inventory.yaml", tags="docker"), "tags must be a tuple of strings"),
        (lambda: actions.Request("inventory.yaml", forks=0), "forks must be 1 or more"),
        (lambda: actions.Pace(lock_wait=-1.0), "lock_wait must be between 0 and 86400 seconds"),
        (lambda: actions.Pace(lock_wait=1e6), "lock_wait must be between 0 and 86400 seconds"),
    ],
)
def test_a_request_with_an_impossible_value_is_a_usage_error(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_the_text_of_a_request_does_not_show_the_password():
    assert "hunter2" not in repr(actions.Request("inventory.yaml", become_password="hunter2"))


def test_the_code_of_the_documentation_runs(noting, tmp_path, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 4
    names, usual = {"setup": noting()}, 'tags=("docker",))'
    assert usual in blocks[0]
    blocks[0] = blocks[0].replace(usual, 'tags=("docker",), setup=setup)')
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    said = capsys.readouterr().out
    assert "gpu-01 add note:gpu-01.note" in said
    assert "gpu-02 changed note:gpu-02.note" in said
    assert "gpu-01 changed ['note:gpu-01.note'] None" in said
    assert "gpu-02 passed []" in said
    assert notes(tmp_path) == ["gpu-01.note", "gpu-02.note"]


def test_the_documentation_names_every_function():
    functions = {name for name in actions.__all__ if name.islower() and callable(getattr(actions, name))}
    text = PAGE.read_text()
    assert functions == {name for name in functions if re.search(rf"`{name}\(", text)}


@pytest.mark.parametrize(("agrees", "code", "made"), [(True, 0, ["gpu-01.note", "gpu-02.note"]), (False, 130, [])])
def test_on_a_terminal_the_command_shows_the_plan_once_and_asks(
    request_of, noting, tmp_path, capsys, agrees, code, made
):
    def confirm(text):
        assert text == "Deploy this?"
        return agrees

    caller = Caller(noting(), can_answer=lambda: True, confirm=confirm)
    assert cli.execute(["deploy", "-i", "inventory.yaml", "-t", "docker"], caller) == code
    said = capsys.readouterr()
    assert said.out.count("note:gpu-01.note") == (2 if agrees else 1), "in the plan and in the recap"
    assert ("2 changed of 2" in said.out) == agrees
    assert said.err.count("warning") == 0, "the accepted risk of nginx is for a plan of nginx"
    assert list(actions.plan(request_of()).inventory.accepted) == ["nginx"]
    assert notes(tmp_path) == made


def test_a_stage_as_a_fabric_task_deploys_one_host(request_of, tmp_path):
    """Fabric finds the tasks in a process of its own."""
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(
        "all: {vars: {nginx: {accept_known_vulnerabilities: true}}}\n"
        "gpu: {hosts: {box: {ansible_host: 127.0.0.1, ansible_port: 1, ollama: {instances: [{gpus: [0]}]}}}}"
    )
    program = Path(sys.executable).with_name("fab")
    words = ["-r", str(ROOT / "provision"), "-H", "box", "docker", "--inventory", str(inventory)]
    done = subprocess.run(
        [str(program), *words], capture_output=True, text=True, check=False, timeout=60, env={**os.environ}
    )
    assert done.returncode == 4, done
    assert "UNREACHABLE" in done.stdout
    assert f"again: provision deploy -i {inventory} -l box -t docker" in done.stdout
