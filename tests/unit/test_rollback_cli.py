"""`provision rollback` on hosts that are this machine's shell: the choice of the run, refusals, questions and hooks."""

import json
from pathlib import Path

import pytest

from provision import actions, cli
from provision.actions.undoing import Undoing
from provision.errors import CommandError, UnreachableError
from provision.rollout import waves
from provision.rollout.waves import Outcome
from provision.runs import journal
from provision.ssh import fanout

from .local import LocalSession

OLD, DRAIN, NEW = "20261122T081140Z-0001", "20261122T091140Z-0002", "20261122T091540Z-0003"
INVENTORY = """
all:
  children:
    gpu: {hosts: {gpu-01: {ansible_host: gpu, ollama: {instances: [{gpus: [0]}]}}}}
    balancer: {hosts: {lb-01: {ansible_host: lb}}}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The path of an inventory; every host has the journal of this test."""
    for module in (fanout, waves):
        monkeypatch.setattr(module, "Session", lambda connection, password: LocalSession())
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    return str(tmp_path / "inventory.yaml")


def begun(run, command, step="packages:docker", resumed=()):
    """Write the journal of a run, with one change for the beginning and one for each time the run was resumed."""
    folder = Path(journal.FOLDER)
    folder.mkdir(exist_ok=True)
    records = []
    for at in ("", *resumed):
        records.append({"record": "begin", "run": run, "command": command, "time": at})
        change = {"record": "change", "step": step, "role": "docker", "have": None, "want": "0" * 64, "bytes": []}
        records.append(change)
    (folder / f"{run}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def rollback(path, capsys, *words):
    code = cli.execute(["rollback", "--check", "--json", "-i", path, "-t", "docker", *words])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else {}, said.err


def test_rollback_without_a_run_takes_the_newest_run_that_is_no_drain(path, capsys):
    begun(OLD, "deploy")
    begun(DRAIN, "drain gpu-01")
    _, document, _ = rollback(path, capsys)
    assert document["of"] == OLD
    begun(NEW, f"rollback {OLD}")
    _, document, _ = rollback(path, capsys)
    assert document["of"] == NEW
    assert {one["host"] for one in document["left"]} == {"gpu-01", "lb-01"}


def test_rollback_without_a_run_takes_the_run_that_was_resumed_last(path, capsys):
    begun(OLD, "deploy", resumed=["2026-11-23T09:50:00+00:00"] * 30 + ["2026-11-23T11:00:00+00:00"])
    begun(NEW, "deploy")
    assert rollback(path, capsys)[1]["of"] == OLD


def test_rollback_finds_a_run_behind_as_many_drains_as_a_host_keeps(path, capsys):
    begun(OLD, "deploy")
    for number in range(journal.RUNS):
        begun(f"20261123T0911{number:02}Z-0002", "undrain gpu-01" if number % 2 else "drain gpu-01")
    assert rollback(path, capsys)[1]["of"] == OLD


def test_a_drain_is_undone_by_its_own_command(path, capsys):
    begun(DRAIN, "drain gpu-01")
    code, _, said = rollback(path, capsys, DRAIN)
    assert code == 2
    assert "provision undrain" in said
    code, _, said = rollback(path, capsys)
    assert code == 2
    assert "no run has changed these hosts" in said


def test_a_lost_host_counts_as_unreachable_and_not_as_unchanged(path, capsys, monkeypatch):
    begun(OLD, "deploy")

    def session(connection, password):
        return LocalSession(frozenset({1}) if connection.address == "lb" else frozenset())

    monkeypatch.setattr(fanout, "Session", session)
    code, document, _ = rollback(path, capsys, OLD)
    assert code in (3, 4)
    assert {host["host"]: host["result"] for host in document["hosts"]}["lb-01"] == "unreachable"
    code, _, said = rollback(path, capsys)
    assert code == 4, "the journal of lb-01 may have a newer run"
    assert "not known without lb-01" in said


def test_an_unreachable_balancer_is_listed_once_even_if_the_rollback_restores_its_instance():
    lost = UnreachableError("no")
    known = [Outcome("gpu-01", changed=["x"]), Outcome("lb-01", changed=["marks"]), Outcome("lb-02", error=lost)]
    undoing = Undoing(OLD, None, {}, {"lb-01": lost, "lb-02": CommandError("no"), "gpu-02": lost})
    found = undoing.with_failed(known)
    assert [(one.host, one.result) for one in found] == [
        ("gpu-01", "changed"),
        ("lb-01", "unreachable"),
        ("lb-02", "unreachable"),
        ("gpu-02", "unreachable"),
    ]


@pytest.mark.parametrize("words", [["deploy"], ["rollback", OLD]])
def test_the_command_asks_nothing_if_no_host_could_be_planned(path, capsys, monkeypatch, words):
    begun(OLD, "deploy")
    sessions = iter(range(1000))  # the first two sessions read the journals of a rollback
    asks_first = 2 if words[0] == "rollback" else 0

    def session(connection, password):
        return LocalSession(frozenset({1}) if next(sessions) >= asks_first else frozenset())

    for module in (fanout, waves):
        monkeypatch.setattr(module, "Session", session)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: pytest.fail("asked"))
    assert cli.execute([*words, "-i", path, "-t", "docker"]) == 4
    assert "UNREACHABLE" in capsys.readouterr().out


def test_the_command_asks_nothing_if_the_operator_interrupts_the_plan(path, capsys, monkeypatch):
    def plan(made):
        made.interrupt(now=False)
        return [Outcome(member.outcome.host) for member in made.members]

    monkeypatch.setattr(waves.Rollout, "plan", plan)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("click.confirm", lambda *_, **__: pytest.fail("asked"))
    assert cli.execute(["deploy", "-i", path, "-t", "docker"]) == 130


def test_a_journal_file_without_the_name_of_a_run_is_ignored(path, capsys):
    begun(OLD, "deploy")
    begun("zzz", "deploy")
    assert rollback(path, capsys)[1]["of"] == OLD


def test_the_command_asks_nothing_without_a_terminal(path, capsys):
    begun(OLD, "deploy")
    assert cli.execute(["rollback", "-i", path]) == 2
    assert "--yes" in capsys.readouterr().err


def hook(path, name, text="exit 0"):
    """Write a hook beside the inventory that keeps the document of the run."""
    program = Path(path).parent / "hooks" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\ncat >"$PROVISION_EVENT.json"\n{text}\n')
    program.chmod(0o755)


def test_hooks_run_around_a_rollback_and_get_the_id_of_the_undone_run(path, tmp_path, capsys, monkeypatch):
    begun(OLD, "deploy")
    hook(path, "pre-deploy")
    hook(path, "post-deploy")
    monkeypatch.setattr(waves.Rollout, "deploy", lambda rollout: [Outcome("gpu-01"), Outcome("lb-01")])
    assert cli.execute(["rollback", OLD, "--yes", "--json", "-i", path, "-t", "docker"]) == 0
    document = json.loads(capsys.readouterr().out)
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("pre-deploy", "post-deploy"))
    assert (before["command"], before["of"], before["hosts"]) == ("rollback", OLD, ["gpu-01", "lb-01"])
    assert (after["command"], after["exit"], after["run"]) == ("rollback", 0, document["run"])
    assert {key: after[key] for key in ("of", "left", "hosts", "summary")} == {
        key: document[key] for key in ("of", "left", "hosts", "summary")
    }


def test_a_failed_hook_before_a_rollback_prevents_the_rollback(path, capsys, monkeypatch):
    begun(OLD, "deploy")
    hook(path, "pre-deploy", "exit 3")
    monkeypatch.setattr(waves.Rollout, "deploy", lambda rollout: pytest.fail("something was put back"))
    assert cli.execute(["rollback", OLD, "--yes", "-i", path, "-t", "docker"]) == 7
    assert "pre-deploy ended with exit code 3: nothing was touched" in capsys.readouterr().err


def test_a_plan_of_a_rollback_runs_no_hook(path, tmp_path, capsys):
    begun(OLD, "deploy")
    hook(path, "pre-deploy")
    rollback(path, capsys, OLD)
    assert not (tmp_path / "pre-deploy.json").exists()


def test_a_rollback_without_consent_changes_nothing(path, monkeypatch):
    begun(OLD, "deploy")
    monkeypatch.setattr(waves.Rollout, "plan", lambda rollout: [Outcome("gpu-01"), Outcome("lb-01")])
    monkeypatch.setattr(waves.Rollout, "deploy", lambda rollout: pytest.fail("something was put back"))
    request = actions.Request(path, tags=("docker",))
    result = actions.rollback(request, OLD, confirm=lambda planned: False)
    assert (result.run_id, result.exit_code, result.of) == ("", 130, OLD)
