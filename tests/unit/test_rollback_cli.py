"""`provision rollback` on hosts that are this machine's shell: the choice of the run, refusals, questions and hooks."""

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest

from provision import actions, cli, testing
from provision.actions.undoing import Undoing
from provision.cli.caller import Caller
from provision.errors import CommandError, UnreachableError
from provision.rollout.waves import Outcome
from provision.runs import journal
from provision.testing import ShellHost

OLD, DRAIN, NEW = "20261122T081140Z-0001", "20261122T091140Z-0002", "20261122T091540Z-0003"
INVENTORY = """
all:
  vars: {nginx: {accept_known_vulnerabilities: true}}
  children:
    gpu: {hosts: {gpu-01: {ansible_host: gpu, ollama: {instances: [{gpus: [0]}]}}}}
    balancer: {hosts: {lb-01: {ansible_host: lb}}}
"""


class Fleet:
    """An inventory whose hosts all have the journal of the test, and the command line that reaches them.

    Args:
        folder: folder of the test.
    """

    def __init__(self, folder):
        self.path = str(folder / "inventory.yaml")
        Path(self.path).write_text(INVENTORY)
        self.setup = testing.setup(folder, self._connect, steps=lambda host, inventory: ())
        self.lost = set()
        """The addresses of hosts that are lost at their first exec."""
        self.connects = 0
        self.loses_after = None
        """The number of connections after which every host is lost at its first exec."""

    def _connect(self, connection, become_password, paths):
        self.connects += 1
        late = self.loses_after is not None and self.connects > self.loses_after
        lost = late or connection.address in self.lost
        return ShellHost(paths, frozenset({1}) if lost else frozenset())

    def execute(self, *words, **caller):
        return cli.execute([*words, "-i", self.path, "-t", "docker"], Caller(self.setup, **caller))

    def begun(self, run, command, step="packages:docker", resumed=()):
        begun(self.setup.paths, run, command, step, resumed)

    def check(self, capsys, *words):
        """Plan a rollback; the exit code, the document, and the messages."""
        code = self.execute("rollback", "--check", "--json", *words)
        said = capsys.readouterr()
        return code, json.loads(said.out) if said.out else {}, said.err


@pytest.fixture
def fleet(tmp_path):
    return Fleet(tmp_path)


def begun(paths, run, command, step, resumed):
    """A journal with one change, and one more for each time that it was resumed."""
    folder = Path(paths.journal)
    folder.mkdir(parents=True, exist_ok=True)
    records = []
    for at in ("", *resumed):
        records.append({"record": "begin", "run": run, "command": command, "time": at})
        change = {"record": "change", "step": step, "role": "docker", "have": None, "want": "0" * 64, "bytes": []}
        records.append(change)
    (folder / f"{run}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_rollback_without_a_run_takes_the_newest_run_that_is_no_drain(fleet, capsys):
    fleet.begun(OLD, "deploy")
    fleet.begun(DRAIN, "drain gpu-01")
    _, document, _ = fleet.check(capsys)
    assert document["of"] == OLD
    fleet.begun(NEW, f"rollback {OLD}")
    _, document, _ = fleet.check(capsys)
    assert document["of"] == NEW
    assert {one["host"] for one in document["left"]} == {"gpu-01", "lb-01"}


def test_rollback_without_a_run_takes_the_run_that_was_resumed_last(fleet, capsys):
    fleet.begun(OLD, "deploy", resumed=["2026-11-23T09:50:00+00:00"] * 30 + ["2026-11-23T11:00:00+00:00"])
    fleet.begun(NEW, "deploy")
    assert fleet.check(capsys)[1]["of"] == OLD


def test_rollback_finds_a_run_behind_as_many_drains_as_a_host_keeps(fleet, capsys):
    fleet.begun(OLD, "deploy")
    for number in range(journal.RUNS):
        fleet.begun(f"20261123T0911{number:02}Z-0002", "undrain gpu-01" if number % 2 else "drain gpu-01")
    assert fleet.check(capsys)[1]["of"] == OLD


def test_a_drain_is_undone_by_its_own_command(fleet, capsys):
    fleet.begun(DRAIN, "drain gpu-01")
    code, _, said = fleet.check(capsys, DRAIN)
    assert code == 2
    assert "provision undrain" in said
    code, _, said = fleet.check(capsys)
    assert code == 2
    assert "no run has changed these hosts" in said


def test_a_lost_host_counts_as_unreachable_and_not_as_unchanged(fleet, capsys):
    fleet.begun(OLD, "deploy")
    fleet.lost.add("lb")
    code, document, _ = fleet.check(capsys, OLD)
    assert code in (3, 4)
    assert {host["host"]: host["result"] for host in document["hosts"]}["lb-01"] == "unreachable"
    code, _, said = fleet.check(capsys)
    assert code == 4, "what lb-01 knows may be newer"
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


def never(question):
    pytest.fail(f"asked: {question}")


@pytest.mark.parametrize(("words", "loses_after"), [(["deploy"], 0), (["rollback", OLD], 2)])
def test_the_command_asks_nothing_if_no_host_could_be_planned(fleet, capsys, words, loses_after):
    """The first two connections of a rollback read the journals."""
    fleet.begun(OLD, "deploy")
    fleet.loses_after = loses_after
    assert fleet.execute(*words, can_answer=lambda: True, confirm=never) == 4
    assert "UNREACHABLE" in capsys.readouterr().out


def test_the_command_asks_nothing_if_the_operator_interrupts_the_plan(fleet):
    host = Interrupting(lambda: os.kill(os.getpid(), signal.SIGINT))
    fleet.setup = dataclasses.replace(fleet.setup, connect=host.connect)
    assert fleet.execute("deploy", can_answer=lambda: True, confirm=never) == 130


class Interrupting(testing.FakeHost):
    """A host that is read while the operator presses Ctrl-C.

    Args:
        press: presses.
    """

    def __init__(self, press):
        super().__init__()
        self.press = press

    def batch(self, commands, *, stop, beside=False):
        press, self.press = self.press, None
        if press:
            press()
            deadline = time.monotonic() + 60
            while not self.closes and time.monotonic() < deadline:  # Ctrl-C cuts a connection that is only read
                time.sleep(0.01)
        return super().batch(commands, stop=stop, beside=beside)


def test_a_journal_file_without_the_name_of_a_run_is_ignored(fleet, capsys):
    fleet.begun(OLD, "deploy")
    fleet.begun("zzz", "deploy")
    assert fleet.check(capsys)[1]["of"] == OLD


def test_the_command_asks_nothing_without_a_terminal(fleet, capsys):
    fleet.begun(OLD, "deploy")
    assert fleet.execute("rollback") == 2
    assert "--yes" in capsys.readouterr().err


def hook(path, name, text="exit 0"):
    """Write a hook beside the inventory that keeps the document of the run."""
    program = Path(path).parent / "hooks" / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\ncat >"$PROVISION_EVENT.json"\n{text}\n')
    program.chmod(0o755)


def test_hooks_run_around_a_rollback_and_get_the_id_of_the_undone_run(fleet, tmp_path, capsys):
    fleet.begun(OLD, "deploy")
    for name in ("pre-deploy", "post-deploy", "on-failure"):
        hook(fleet.path, name)
    code = fleet.execute(
        "rollback", OLD, "--yes", "--json"
    )  # after a rollback Docker runs, if this machine has systemd
    document = json.loads(capsys.readouterr().out)
    names = ("pre-deploy", "on-failure" if code else "post-deploy")
    before, after = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert (before["command"], before["of"], before["hosts"]) == ("rollback", OLD, ["gpu-01", "lb-01"])
    assert (after["command"], after["exit"], after["run"]) == ("rollback", code, document["run"])
    assert {key: after[key] for key in ("of", "left", "hosts", "summary")} == {
        key: document[key] for key in ("of", "left", "hosts", "summary")
    }


def test_a_hook_that_fails_before_a_rollback_keeps_everything_as_it_is(fleet, capsys):
    fleet.begun(OLD, "deploy")
    hook(fleet.path, "pre-deploy", "exit 3")
    before = fleet.connects
    assert fleet.execute("rollback", OLD, "--yes") == 7
    assert fleet.connects == before + 4, "two for the journals; two for the run, which open nothing"
    assert "pre-deploy ended with exit code 3: nothing was touched" in capsys.readouterr().err


def test_a_plan_of_a_rollback_runs_no_hook(fleet, tmp_path, capsys):
    fleet.begun(OLD, "deploy")
    hook(fleet.path, "pre-deploy")
    fleet.check(capsys, OLD)
    assert not (tmp_path / "pre-deploy.json").exists()


def test_what_the_operator_does_not_agree_to_is_not_put_back(fleet):
    fleet.begun(OLD, "deploy")
    asked = []

    def confirm(planned):
        asked.append(planned.of)
        return False

    request = actions.Request(fleet.path, tags=("docker",), setup=fleet.setup)
    result = actions.rollback(request, OLD, confirm=confirm)
    assert (result.run_id, result.exit_code, result.of, asked) == ("", 130, OLD, [OLD])
