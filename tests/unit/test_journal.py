"""What runs write on a host of what they did: before, after, bounded, and read again whatever became of it."""

import dataclasses
import fcntl
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from provision.command import run
from provision.errors import CommandError, UnreachableError
from provision.plan.planner import Change
from provision.runs import history, journal, lock
from provision.steps.system.file_scan import Content
from tests.shell import sh

from . import test_host_run
from .local import LocalSession, deployed
from .test_host_run import ROLES, Note, note

make = test_host_run.make  # a fixture


def records(run_id="run-1"):
    return [json.loads(line) for line in (Path(journal.FOLDER) / f"{run_id}.jsonl").read_text().splitlines()]


def kinds(run_id="run-1"):
    return [(record["record"], record.get("step", "")) for record in records(run_id)]


def story(run_id="run-1", **how):
    [answer] = LocalSession().batch([history.read(run_id, **how)], stop=False)
    return history.story(run_id, answer)


def entries(most=20):
    [answer] = LocalSession().batch([history.listed(most)], stop=False)
    return history.entries(answer)


def test_a_run_that_changes_nothing_writes_nothing(make):
    (make.folder / "a").write_text("wanted")
    host = make(note(make))
    deployed(host.deploy(ROLES))
    host.finish()
    assert not Path(journal.FOLDER).exists()
    assert entries() == []
    assert story() is None


def test_each_change_is_written_before_and_after_it_and_root_alone_may_read_it(make):
    (make.folder / "b").write_text("before")
    host = make(note(make), note(make, "b"))
    deployed(host.deploy(ROLES))
    assert kinds() == [
        ("begin", ""),
        ("change", "note:a"),
        ("done", "note:a"),
        ("change", "note:b"),
        ("done", "note:b"),
        ("end", ""),
    ]
    begin, end = records()[0], records()[-1]
    assert (begin["run"], begin["command"], end["result"], end["changes"]) == ("run-1", "deploy", "changed", 2)
    assert begin["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    modes = {
        path.name: path.stat().st_mode & 0o777 for place in (journal.FOLDER, journal.STORE) for path in tree(place)
    }
    assert set(modes.values()) == {0o700, 0o600}
    assert [(one.step, one.have, one.want, one.result) for one in story().made] == [
        ("note:a", None, {"text": "wanted"}, "done"),
        ("note:b", {"text": "before"}, {"text": "wanted"}, "done"),
    ]


def tree(place):
    return [Path(place), *Path(place).iterdir()]


def test_what_failed_is_written_with_its_exit_code(make):
    host = make(note(make, how=(sh("exit 7", title="break"),)), note(make, "b"))
    with pytest.raises(CommandError) as error:
        deployed(host.deploy(ROLES))
    host.finish("failed", error.value)
    assert kinds() == [("begin", ""), ("change", "note:a"), ("failed", "note:a"), ("end", "")]
    [made] = story().made
    assert (made.result, made.exit, "break exited 7" in made.why) == ("failed", 7, True)
    [entry] = entries()
    assert (entry.result, entry.step, entry.changes) == ("failed", "note:a", 1)


@pytest.fixture
def audited(tmp_path, monkeypatch):
    """Runs a command of the journal; gives what a host's own log was told so far."""
    (tmp_path / "bin").mkdir()
    told = tmp_path / "told"
    (tmp_path / "bin/logger").write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{told}\n')
    (tmp_path / "bin/logger").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def ran(command):
        subprocess.run(command.words, input=command.stdin, check=True, timeout=60)
        return told.read_text().splitlines() if told.exists() else []

    return ran


def test_the_hosts_own_log_is_told_when_a_run_begins_to_change_it_and_when_it_ends(audited, monkeypatch):
    monkeypatch.setattr(lock, "who", lambda: "alice@desk")
    written = journal.Journal("run-1", "deploy")
    first, second = (Change("docker", Note(path), "add", "not there", None, {"text": path}) for path in ("/a", "/b"))
    begun = "-t provision -p user.notice -- run run-1 by alice@desk: deploy, begins"
    assert audited(written.before(first)) == [begun], "it may be killed before its end"
    assert audited(written.done("note:a")) == [begun]
    assert audited(written.before(second)) == [begun]
    assert audited(written.end()) == [begun, begun.replace("begins", "2 steps, changed")]


def test_what_the_hosts_own_log_is_told_of_a_long_command_is_short(audited):
    written = journal.Journal("run-1", f"drain {' '.join(f'gpu-{number:03}' for number in range(200))}")
    [line] = audited(written.before(Change("balancer", Note("/a"), "add", "not there", None, {"text": "x"})))
    assert "drain gpu-000 gpu-001" in line
    assert len(line) < 400


def test_a_run_that_was_killed_in_a_step_is_unfinished_and_says_in_which(make):
    class Dying(LocalSession):
        """The connection ends with the step's first command."""

        def _exec(self, text, limit_s, on_data=None, **how):
            if b"kill-me" in text:
                cut = text[: text.index(b"begin 2")]  # the journal is written; the step's own command is not run
                subprocess.run(["sh", "-s"], input=cut + b"\n}\nmain </dev/null\n", check=False, capture_output=True)
                raise UnreachableError("the connection was lost")
            return super()._exec(text, limit_s, on_data, **how)

    host = make(note(make, how=(run("echo", "kill-me"),)), session=Dying())
    with pytest.raises(UnreachableError):
        deployed(host.deploy(ROLES))
    assert kinds() == [("begin", ""), ("change", "note:a")]
    [entry] = entries()
    assert (entry.result, entry.step) == ("unfinished", "note:a")
    assert story().made[0].result == "unfinished"


def test_the_bytes_that_rollback_needs_are_kept_by_their_hash_and_only_shown_on_demand(make):
    class Read(type(note(make))):
        def fact(self):
            found = super().fact()
            return type(found)(found.command, lambda answer: content(found.parse(answer)))

        def want(self, facts, have):
            return {"sha256": Content(b"wanted")}

        def commands(self, have, want):
            return super().commands(have, {"text": "wanted"})

    def content(state):
        return state and {"sha256": Content(state["text"].encode())}

    (make.folder / "a").write_text("before")
    deployed(make(Read(str(make.folder / "a"))).deploy(ROLES))
    assert (Path(journal.STORE) / Content(b"before")).read_bytes() == b"before"
    assert not (Path(journal.STORE) / Content(b"wanted")).exists(), "what is there now is kept when it is replaced"
    assert story().made[0].have == {"sha256": Content(b"before")}
    assert not isinstance(story().made[0].have["sha256"], Content)
    assert story(with_bytes=True).made[0].have["sha256"].data == b"before"


def test_a_step_that_a_run_changes_again_keeps_only_what_was_there_before_the_run():
    written = journal.Journal("run-1", "deploy")
    first, second = (
        written.before(Change("docker", Note("/a"), "change", "differs", {"sha256": Content(text)}, {"sha256": "x"}))
        for text in (b"before", b"between")
    )
    assert str(Content(b"before")).encode() + b" " in first.stdin
    assert str(Content(b"between")).encode() + b" " not in second.stdin


def test_journals_are_bounded_in_number_and_with_them_what_they_keep(make, monkeypatch):
    monkeypatch.setattr(journal, "RUNS", 3)
    for number in range(5):
        (make.folder / "a").write_text(f"before {number}")
        deployed(make(note(make), run_id=f"run-{number}").deploy(ROLES))
    assert [entry.run for entry in entries()] == ["run-4", "run-3", "run-2"]
    kept = {path.read_bytes() for path in Path(journal.STORE).iterdir()}
    assert kept == {b'{"text": "wanted"}', *(b'{"text": "before %d"}' % number for number in (2, 3, 4))}


@pytest.mark.parametrize("years", [-1, 1])
def test_a_clock_that_is_wrong_deletes_no_journal(years):
    """By a clock that is ahead, every other journal is old. By one that is behind, the next right one says the same."""
    for number in range(3):
        wrote(f"run-{number}")
    for path in (*Path(journal.FOLDER).iterdir(), *Path(journal.STORE).iterdir()):
        then = path.stat().st_mtime - years * 365 * 86400
        os.utime(path, (then, then))
    wrote("run-3")
    assert [entry.run for entry in entries()] == ["run-3", "run-2", "run-1", "run-0"]
    assert all(story(f"run-{number}").made[0].known for number in range(4))


def test_what_a_writer_that_died_left_behind_goes_whatever_its_age():
    wrote("run-1")
    left = Path(journal.STORE) / ".new.0123456789"
    left.write_text("half")
    wrote("run-2")
    assert not left.exists()


def wrote(run_id, command="deploy", size=10):
    """One change of a run, of which so many bytes are kept."""
    written = journal.Journal(run_id, command)
    before = {"text": f"{run_id} {'x' * size}"}
    change = Change("docker", Note("/a"), "change", "differs", before, {"text": "wanted"})
    answers = LocalSession().batch([written.before(change), written.done("note:a"), written.end()], stop=False)
    assert [answer.exit for answer in answers] == [0, 0, 0], answers


def test_drains_push_no_other_run_out_nor_are_they_kept_for_ever(monkeypatch):
    monkeypatch.setattr(journal, "RUNS", 2)
    for number in range(3):
        wrote(f"run-0{number}")
    for number in range(10, 15):
        wrote(f"run-{number}", "drain gpu-01" if number % 2 else "undrain gpu-01")
    assert [entry.run for entry in entries()] == ["run-14", "run-13", "run-02", "run-01"]
    assert story("run-02").made[0].known
    wrote("run-20", 'rollback "drain"')
    assert [entry.run for entry in entries()] == ["run-20", "run-14", "run-13", "run-02"]


def test_runs_are_kept_whatever_the_size_of_the_files_that_they_replaced():
    for number in range(8):
        wrote(f"run-{number}", size=1_000_000)
    assert [entry.run for entry in entries()] == [f"run-{number}" for number in reversed(range(8))]
    assert all(story(f"run-{number}").made[0].known for number in range(8))


@pytest.mark.parametrize(
    ("kind", "words", "command"),
    [
        ("deploy", (), "deploy"),
        ("rollback", ("20260101T000000Z-0000",), "rollback 20260101T000000Z-0000"),
        ("drain", ("gpu-01/ollama1", "gpu 02"), "drain gpu-01/ollama1 'gpu 02'"),
    ],
)
def test_a_journal_says_the_kind_of_its_run_in_the_text_of_its_command(make, kind, words, command):
    context = dataclasses.replace(make(note(make)).context, kind=kind, words=words, journals={})
    assert context.command == context.journal("h").command == command
    wrote("run-1", command)
    assert [(entry.kind, entry.command) for entry in entries()] == [(kind, command)]


def test_a_run_that_goes_on_after_newer_ones_does_not_push_itself_out(monkeypatch):
    monkeypatch.setattr(journal, "RUNS", 1)
    wrote("run-2")
    wrote("run-1")
    assert [entry.run for entry in entries()] == ["run-2", "run-1"]


def test_what_a_kept_state_names_is_kept_with_it(make, monkeypatch):
    monkeypatch.setattr(journal, "RUNS", 1)
    named = "a" * 64
    for number in range(2):
        (make.folder / "a").write_text(named)
        Path(journal.STORE).mkdir(exist_ok=True)
        (Path(journal.STORE) / named).write_text("bytes")
        (Path(journal.STORE) / ("b" * 64)).write_text("nobody's")
        deployed(make(note(make), run_id=f"run-{number}").deploy(ROLES))
    assert (Path(journal.STORE) / named).exists()
    assert not (Path(journal.STORE) / ("b" * 64)).exists()


def test_half_a_line_takes_no_other_with_it_and_what_is_no_record_is_left_out(make):
    deployed(make(note(make)).deploy(ROLES))
    path = Path(journal.FOLDER) / "run-1.jsonl"
    with path.open("a") as file:
        file.write('[1]\n"x"\n{"record": 3}\n\x1b[2J\n{"record": "change", "step": ["x"], "have": {}}\n{"at": 1, "rec')
    (make.folder / "a").write_text("by hand")
    deployed(make(note(make)).deploy(ROLES))
    assert [one.step for one in story().made] == ["note:a", "", "note:a"]
    assert [one.known for one in story().made] == [True, False, True]
    assert entries()[0].result == "changed"


def test_what_is_kept_and_is_not_what_its_name_says_is_not_believed(make):
    (make.folder / "a").write_text("before")
    deployed(make(note(make)).deploy(ROLES))
    for path in Path(journal.STORE).iterdir():
        path.write_text('{"text": "of somebody else"}')
    [made] = story().made
    assert (made.known, made.have, made.want) == (False, None, None)


def test_a_run_that_goes_on_under_its_own_id_is_one_journal(make):
    host = make(note(make), note(make, "b", how=(sh("exit 1", title="break"),)))
    with pytest.raises(CommandError) as error:
        deployed(host.deploy(ROLES))
    host.finish("failed", error.value)
    deployed(make(note(make), note(make, "b")).deploy(ROLES))
    assert [entry.result for entry in entries()] == ["changed"]
    assert [(one.step, one.result) for one in story().made] == [
        ("note:a", "done"),
        ("note:b", "failed"),
        ("note:b", "done"),
    ]


def test_two_connections_to_one_host_write_one_journal_and_the_worst_result_stays(make):
    own = make(note(make, how=(sh("exit 7", title="break"),)))
    other = make(note(make, "b"))
    other.context.journals["h"] = own.context.journal("h")
    other._performer.journal = own.context.journal("h")
    with pytest.raises(CommandError) as error:
        deployed(own.deploy(ROLES))
    own.finish("failed", error.value)
    deployed(other.deploy(ROLES))
    other.finish()
    assert [kind for kind, _ in kinds()].count("begin") == 1
    assert [(entry.result, entry.step, entry.changes) for entry in entries()] == [("failed", "note:a", 2)]


def test_one_writes_at_a_time_so_that_none_sweeps_away_what_another_is_about_to_name():
    folder = Path(journal.FOLDER)
    folder.mkdir(parents=True)
    change = Change("docker", Note("/nowhere/a"), "add", "", None, {"text": "wanted"}, ())
    write = journal.Journal("run-1", "deploy").before(change)
    writer = threading.Thread(target=lambda: LocalSession().batch([write], stop=False))
    with (folder / ".guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert not list(folder.glob("*.jsonl"))
    writer.join(10)
    assert kinds() == [("begin", ""), ("change", "note:a")]
