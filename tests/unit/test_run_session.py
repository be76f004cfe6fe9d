"""A run from beginning to end: log, hooks, the order of reports, and the exit code."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provision.actions import DeployResult, Pace, Request
from provision.actions.run_session import RunSession
from provision.errors import CommandError, GuardError, UsageError
from provision.inventory import Inventory
from provision.report.progress import Progress
from provision.rollout.waves import Outcome
from provision.runs.interrupt import at_ctrl_c
from provision.runs.log import Logs, default_folder

HOOKS = ("pre-deploy", "post-deploy", "on-failure")


@dataclass
class Work:
    """Work on hosts, made up by a test."""

    outcomes: Sequence[Outcome] = ()
    interrupted: bool = False
    guarded: str = ""
    guard_exit: int = 7
    done: list[str] = field(default_factory=list)

    def do(self):
        self.done.append("do")
        return self.outcomes

    def interrupt(self, *, now):
        self.interrupted = True

    def under_way(self):
        return []

    def close(self):
        self.done.append("close")


class Place:
    """A run beside an inventory with hooks, and the events of the run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[str] = []
        (folder / "hooks").mkdir()

    def hook(self, name: str, text: str = "") -> None:
        path = self.folder / "hooks" / name
        path.write_text(f'#!/bin/sh\ncat >"$PROVISION_EVENT-$PROVISION_COMMAND-$PROVISION_RUN.json"\n{text}\n')
        path.chmod(0o755)

    def heard(self) -> dict[str, dict]:
        """Return the document that each hook got, by hook, command and id of the run."""
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob("*.json")}

    def session(self, command: str = "deploy", run_id: str = "run-1") -> RunSession:
        def listen(event):
            self.events.append(event.kind if event.host else f"{event.kind} {event.step}".strip())

        request = Request(str(self.folder / "inventory.yaml"), limit=("gpu",))
        inventory = Inventory(path="", hosts=())
        kind, *words = command.split()
        return RunSession(request, Pace(), kind, inventory, frozenset(), listen, words=words, run_id=run_id)

    def run(self, work: Work, command: str = "deploy", tell=lambda result: None, **about):
        session = self.session(command)

        def result(outcomes, code):
            return session.result(DeployResult, outcomes, code)

        return session.run(work, work.do, ["gpu-01"], result, tell, **about)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_run_writes_a_log_and_closes_its_connections_at_the_end(place):
    logs, during = Logs(default_folder()), []
    work = Work([Outcome("gpu-01", changed=["x"])])
    result = place.run(work, tell=lambda result: during.append(list(work.done)))
    log = logs.find("run-1")
    assert (log.command, log.exit, log.hosts, log.limit) == ("deploy", 0, {"gpu-01": "changed"}, ("gpu",))
    assert (result.run_id, result.exit_code, work.done) == ("run-1", 0, ["do", "close"])
    assert during == [["do"]], "the result is reported before any connection is closed"
    assert place.events == ["selected", "over"]


@pytest.mark.parametrize("command", ["deploy", "rollback 20261122T081140Z-0001", "drain gpu-01", "undrain gpu-01"])
@pytest.mark.parametrize(("error", "after", "code"), [(None, "post-deploy", 0), ("no", "on-failure", 3)])
def test_hooks_run_around_every_command_that_changes_hosts_and_get_its_name(place, command, error, after, code):
    for name in HOOKS:
        place.hook(name)
    place.run(Work([Outcome("gpu-01", error=CommandError(error) if error else None)]), command, of="this")
    verb = command.partition(" ")[0]
    heard = place.heard()
    assert set(heard) == {f"pre-deploy-{verb}-run-1", f"{after}-{verb}-run-1"}
    before, then = heard[f"pre-deploy-{verb}-run-1"], heard[f"{after}-{verb}-run-1"]
    inventory = str(place.folder / "inventory.yaml")
    assert before == {
        "schema": 1,
        "event": "pre-deploy",
        "run": "run-1",
        "command": verb,
        "inventory": inventory,
        "hosts": ["gpu-01"],
        "of": "this",
    }
    assert (then["event"], then["command"], then["run"], then["inventory"]) == (after, verb, "run-1", inventory)
    assert (then["exit"], then["hosts"][0]["host"]) == (code, "gpu-01")


def test_a_failed_hook_before_the_run_prevents_the_run(place):
    place.hook("pre-deploy", "exit 3")
    place.hook("on-failure")
    work = Work()
    with pytest.raises(GuardError, match="pre-deploy ended with exit code 3: nothing was touched"):
        place.run(work, "drain gpu-01")
    assert work.done == ["close"]
    assert not default_folder().exists(), "a run that did not begin has no log"
    assert set(place.heard()) == {"pre-deploy-drain-run-1"}


def test_an_unsafe_hook_prevents_the_run(place):
    place.hook("on-failure")
    (place.folder / "hooks" / "on-failure").chmod(0o777)
    work = Work()
    with pytest.raises(UsageError, match="can be written by others"):
        place.run(work)
    assert work.done == ["close"]


def test_a_failed_hook_after_the_run_is_a_warning(place):
    place.hook("post-deploy", "exit 3")
    assert place.run(Work([Outcome("gpu-01")])).exit_code == 0
    assert place.events == ["selected", "over", "warning hooks"]


def test_the_last_hook_runs_even_if_the_report_of_the_result_fails(place):
    place.hook("post-deploy")

    def tell(result):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        place.run(Work([Outcome("gpu-01")]), tell=tell)
    assert set(place.heard()) == {"post-deploy-deploy-run-1"}


def test_a_run_ended_by_a_bug_closes_everything_and_runs_no_last_hook(place):
    place.hook("on-failure")

    class Broken(Work):
        def do(self):
            raise KeyError("a bug")

    work = Broken()
    with pytest.raises(KeyError):
        place.run(work)
    assert (work.done, place.events, place.heard()) == (["close"], ["selected", "over"], {})


def test_an_unwritable_log_is_a_warning(place, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    place.run(Work([Outcome("gpu-01")]))
    assert place.events == ["warning log", "selected", "over"]


def test_ctrl_c_stops_the_work_and_not_the_report_of_the_result(place):
    work, told = Work([Outcome("gpu-01")]), []

    def tell(result):
        os.kill(os.getpid(), signal.SIGINT)
        told.append(result.exit_code)

    with at_ctrl_c(lambda *, now: None):  # a late signal hits this handler and no other test
        place.run(work, tell=tell)
    assert told == [0]


def test_a_run_stopped_by_the_operator_ends_with_exit_code_130(place):
    assert place.run(Work([Outcome("gpu-01")], interrupted=True)).exit_code == 130


def test_a_run_stopped_by_a_guard_ends_with_the_exit_code_of_the_guard(place):
    assert place.run(Work([Outcome("gpu-01")], guarded="the canary failed", guard_exit=6)).exit_code == 6


def test_a_command_that_changes_nothing_has_neither_log_nor_hooks(place):
    place.hook("pre-deploy")
    work = Work([Outcome("gpu-01")])
    assert place.session().look(work, work.do, ["gpu-01"]) == work.outcomes
    assert (work.done, place.events, place.heard()) == (["do", "close"], ["selected", "over"], {})
    assert not default_folder().exists()


def test_two_runs_have_two_ids(place):
    ids = {place.session(run_id="").context.run_id for _ in range(20)}
    assert len(ids) == 20


@pytest.mark.parametrize(("as_json", "shown"), [(True, ["log"]), (False, ["inventory", "log"])])
def test_the_command_line_shows_warnings_unless_its_document_has_them(capsys, as_json, shown):
    from provision.events import Event

    progress = Progress(as_json=as_json, verbose=False)
    for source in ("inventory", "log"):
        progress(Event("", "warning", source, f"of the {source}"))
    assert capsys.readouterr().err == "".join(f"warning: of the {source}\n" for source in shown)


def test_the_command_line_aligns_the_host_names_of_each_run_anew(capsys):
    from provision.events import Event

    progress = Progress(as_json=False, verbose=False)
    for names in (["a", "longer"], ["b"]):
        for name in names:
            progress(Event(name, "selected"))
        progress(Event(names[0], "changed", "note:x", "differs"))
        progress(Event("", "over"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("changed")[0] for line in lines] == ["a       ", "b  "]
