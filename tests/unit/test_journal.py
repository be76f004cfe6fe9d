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
from provision.runs import history, journal
from provision.steps.system.file_scan import Content
from provision.testing import ShellHost
from tests.shell import sh

from . import test_host_run
from .local import deployed
from .test_host_run import ROLES, Note, note

make = test_host_run.make  # a fixture


class Journals:
    """The journals of one host.

    Args:
        paths: the folders of runs on the host.
    """

    def __init__(self, paths):
        self.paths = paths
        self.folder, self.store = Path(paths.journal), Path(paths.store)

    def records(self, run_id="run-1"):
        return [json.loads(line) for line in (self.folder / f"{run_id}.jsonl").read_text().splitlines()]

    def kinds(self, run_id="run-1"):
        return [(record["record"], record.get("step", "")) for record in self.records(run_id)]

    def story(self, run_id="run-1", **how):
        [answer] = ShellHost().batch([history.read(run_id, self.paths, **how)], stop=False)
        return history.story(run_id, answer)

    def entries(self, most=20):
        [answer] = ShellHost().batch([history.listed(most, self.paths)], stop=False)
        return history.entries(answer)

    def of(self, run_id, command="deploy", **more):
        return journal.Journal(run_id, command, self.paths, **more)

    def wrote(self, run_id, command="deploy", size=10, **more):
        """Write one change of a run, with so many bytes to keep."""
        written = self.of(run_id, command, **more)
        before = {"text": f"{run_id} {'x' * size}"}
        change = Change("docker", Note("/a"), "change", "differs", before, {"text": "wanted"})
        answers = ShellHost().batch([written.before(change), written.done("note:a"), written.end()], stop=False)
        assert [answer.exit for answer in answers] == [0, 0, 0], answers


@pytest.fixture
def journals(paths):
    return Journals(paths)


def test_a_run_that_changes_nothing_writes_nothing(make, journals):
    (make.folder / "a").write_text("wanted")
    host = make(note(make))
    deployed(host.deploy(ROLES))
    host.finish()
    assert not journals.folder.exists()
    assert journals.entries() == []
    assert journals.story() is None


def test_each_change_is_recorded_before_and_after_and_readable_by_root_alone(make, journals):
    (make.folder / "b").write_text("before")
    host = make(note(make), note(make, "b"))
    deployed(host.deploy(ROLES))
    assert journals.kinds() == [
        ("begin", ""),
        ("change", "note:a"),
        ("done", "note:a"),
        ("change", "note:b"),
        ("done", "note:b"),
        ("end", ""),
    ]
    begin, end = journals.records()[0], journals.records()[-1]
    assert (begin["run"], begin["command"], end["result"], end["changes"]) == ("run-1", "deploy", "changed", 2)
    assert begin["boot"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    modes = {
        path.name: path.stat().st_mode & 0o777 for place in (journals.folder, journals.store) for path in tree(place)
    }
    assert set(modes.values()) == {0o700, 0o600}
    assert [(change.step, change.have, change.want, change.result) for change in journals.story().changes] == [
        ("note:a", None, {"text": "wanted"}, "done"),
        ("note:b", {"text": "before"}, {"text": "wanted"}, "done"),
    ]


def tree(place):
    return [Path(place), *Path(place).iterdir()]


def test_a_failed_change_is_recorded_with_its_exit_code(make, journals):
    host = make(note(make, how=(sh("exit 7", title="break"),)), note(make, "b"))
    with pytest.raises(CommandError) as error:
        deployed(host.deploy(ROLES))
    host.finish("failed", error.value)
    assert journals.kinds() == [("begin", ""), ("change", "note:a"), ("failed", "note:a"), ("end", "")]
    [made] = journals.story().changes
    assert (made.result, made.exit, "break exited 7" in made.why) == ("failed", 7, True)
    [entry] = journals.entries()
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


def test_the_log_of_the_host_gets_the_begin_and_the_end_of_a_run(audited, journals):
    written = journals.of("run-1", who="alice@desk")
    first, second = (Change("docker", Note(path), "add", "not there", None, {"text": path}) for path in ("/a", "/b"))
    begun = "-t provision -p user.notice -- run run-1 by alice@desk: deploy, begins"
    assert audited(written.before(first)) == [begun], "it may be killed before its end"
    assert audited(written.done("note:a")) == [begun]
    assert audited(written.before(second)) == [begun]
    assert audited(written.end()) == [begun, begun.replace("begins", "2 steps, changed")]


def test_a_long_command_is_short_in_the_log_of_the_host(audited, journals):
    written = journals.of("run-1", f"drain {' '.join(f'gpu-{number:03}' for number in range(200))}")
    [line] = audited(written.before(Change("balancer", Note("/a"), "add", "not there", None, {"text": "x"})))
    assert "drain gpu-000 gpu-001" in line
    assert len(line) < 400


def test_a_killed_run_is_unfinished_and_names_its_step(make, journals):
    class Dying(ShellHost):
        """The connection ends with the step's first command."""

        def exec(self, text, limit_s, on_data=None, **how):
            if b"kill-me" in text:
                cut = text[: text.index(b"begin 2")]  # the journal is written; the step's own command is not run
                subprocess.run(["sh", "-s"], input=cut + b"\n}\nmain </dev/null\n", check=False, capture_output=True)
                raise UnreachableError("the connection was lost")
            return super().exec(text, limit_s, on_data, **how)

    host = make(note(make, how=(run("echo", "kill-me"),)), session=Dying())
    with pytest.raises(UnreachableError):
        deployed(host.deploy(ROLES))
    assert journals.kinds() == [("begin", ""), ("change", "note:a")]
    [entry] = journals.entries()
    assert (entry.result, entry.step) == ("unfinished", "note:a")
    assert journals.story().changes[0].result == "unfinished"


def test_bytes_for_a_rollback_are_stored_by_hash_and_read_on_demand(make, journals):
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
    assert (journals.store / Content(b"before")).read_bytes() == b"before"
    assert not (journals.store / Content(b"wanted")).exists(), "what is there now is kept when it is replaced"
    assert journals.story().changes[0].have == {"sha256": Content(b"before")}
    assert not isinstance(journals.story().changes[0].have["sha256"], Content)
    assert journals.story(with_bytes=True).changes[0].have["sha256"].data == b"before"


def test_a_second_change_of_a_step_stores_no_bytes_in_between(journals):
    written = journals.of("run-1", "deploy")
    first, second = (
        written.before(Change("docker", Note("/a"), "change", "differs", {"sha256": Content(text)}, {"sha256": "x"}))
        for text in (b"before", b"between")
    )
    assert str(Content(b"before")).encode() + b" " in first.stdin
    assert str(Content(b"between")).encode() + b" " not in second.stdin


def test_the_number_of_journals_bounds_the_store(make, journals):
    for number in range(5):
        (make.folder / "a").write_text(f"before {number}")
        host = make(note(make), run_id=f"run-{number}")
        host.context.journal("h").keep = 3
        deployed(host.deploy(ROLES))
    assert [entry.run for entry in journals.entries()] == ["run-4", "run-3", "run-2"]
    kept = {path.read_bytes() for path in journals.store.iterdir()}
    assert kept == {b'{"text": "wanted"}', *(b'{"text": "before %d"}' % number for number in (2, 3, 4))}


@pytest.mark.parametrize("years", [-1, 1])
def test_a_wrong_clock_deletes_no_journal(years, journals):
    """By a clock that is ahead, every other journal is old. By one that is behind, the next right one says the same."""
    for number in range(3):
        journals.wrote(f"run-{number}")
    for path in (*journals.folder.iterdir(), *journals.store.iterdir()):
        then = path.stat().st_mtime - years * 365 * 86400
        os.utime(path, (then, then))
    journals.wrote("run-3")
    assert [entry.run for entry in journals.entries()] == ["run-3", "run-2", "run-1", "run-0"]
    assert all(journals.story(f"run-{number}").changes[0].known for number in range(4))


def test_the_half_written_file_of_a_dead_writer_is_deleted(journals):
    journals.wrote("run-1")
    left = journals.store / ".new.0123456789"
    left.write_text("half")
    journals.wrote("run-2")
    assert not left.exists()


def test_drains_displace_no_deploy_and_are_bounded_too(journals):
    for number in range(3):
        journals.wrote(f"run-0{number}", keep=2)
    for number in range(10, 15):
        journals.wrote(f"run-{number}", "drain gpu-01" if number % 2 else "undrain gpu-01", keep=2)
    assert [entry.run for entry in journals.entries()] == ["run-14", "run-13", "run-02", "run-01"]
    assert journals.story("run-02").changes[0].known
    journals.wrote("run-20", 'rollback "drain"', keep=2)
    assert [entry.run for entry in journals.entries()] == ["run-20", "run-14", "run-13", "run-02"]


def test_runs_with_large_files_are_kept_too(journals):
    for number in range(8):
        journals.wrote(f"run-{number}", size=1_000_000)
    assert [entry.run for entry in journals.entries()] == [f"run-{number}" for number in reversed(range(8))]
    assert all(journals.story(f"run-{number}").changes[0].known for number in range(8))


@pytest.mark.parametrize(
    ("kind", "words", "command"),
    [
        ("deploy", (), "deploy"),
        ("rollback", ("20260101T000000Z-0000",), "rollback 20260101T000000Z-0000"),
        ("drain", ("gpu-01/ollama1", "gpu 02"), "drain gpu-01/ollama1 'gpu 02'"),
    ],
)
def test_a_journal_names_the_kind_and_the_words_of_the_command(make, kind, words, command, journals):
    context = dataclasses.replace(make(note(make)).context, kind=kind, words=words, journals={})
    assert context.command == context.journal("h").command == command
    journals.wrote("run-1", command)
    assert [(entry.kind, entry.command) for entry in journals.entries()] == [(kind, command)]


def test_a_resumed_old_run_does_not_delete_its_own_journal(journals):
    journals.wrote("run-2", keep=1)
    journals.wrote("run-1", keep=1)
    assert [entry.run for entry in journals.entries()] == ["run-2", "run-1"]


def test_bytes_named_by_a_stored_state_stay_in_the_store(make, journals):
    named = "a" * 64
    for number in range(2):
        (make.folder / "a").write_text(named)
        journals.store.mkdir(parents=True, exist_ok=True)
        (journals.store / named).write_text("bytes")
        (journals.store / ("b" * 64)).write_text("nobody's")
        host = make(note(make), run_id=f"run-{number}")
        host.context.journal("h").keep = 1
        deployed(host.deploy(ROLES))
    assert (journals.store / named).exists()
    assert not (journals.store / ("b" * 64)).exists()


def test_a_cut_line_damages_no_other_line_and_garbage_is_ignored(make, journals):
    deployed(make(note(make)).deploy(ROLES))
    path = journals.folder / "run-1.jsonl"
    with path.open("a") as file:
        file.write('[1]\n"x"\n{"record": 3}\n\x1b[2J\n{"record": "change", "step": ["x"], "have": {}}\n{"at": 1, "rec')
    (make.folder / "a").write_text("by hand")
    deployed(make(note(make)).deploy(ROLES))
    assert [change.step for change in journals.story().changes] == ["note:a", "", "note:a"]
    assert [change.known for change in journals.story().changes] == [True, False, True]
    assert journals.entries()[0].result == "changed"


def test_stored_bytes_with_a_wrong_hash_are_ignored(make, journals):
    (make.folder / "a").write_text("before")
    deployed(make(note(make)).deploy(ROLES))
    for path in journals.store.iterdir():
        path.write_text('{"text": "of somebody else"}')
    [made] = journals.story().changes
    assert (made.known, made.have, made.want) == (False, None, None)


def test_a_resumed_run_has_one_journal(make, journals):
    host = make(note(make), note(make, "b", how=(sh("exit 1", title="break"),)))
    with pytest.raises(CommandError) as error:
        deployed(host.deploy(ROLES))
    host.finish("failed", error.value)
    deployed(make(note(make), note(make, "b")).deploy(ROLES))
    assert [entry.result for entry in journals.entries()] == ["changed"]
    assert [(change.step, change.result) for change in journals.story().changes] == [
        ("note:a", "done"),
        ("note:b", "failed"),
        ("note:b", "done"),
    ]


def test_two_connections_write_one_journal_with_the_worst_result(make, journals):
    own = make(note(make, how=(sh("exit 7", title="break"),)))
    other = make(note(make, "b"))
    other.context.journals["h"] = own.context.journal("h")
    other._performer.journal = own.context.journal("h")
    with pytest.raises(CommandError) as error:
        deployed(own.deploy(ROLES))
    own.finish("failed", error.value)
    deployed(other.deploy(ROLES))
    other.finish()
    assert [kind for kind, _ in journals.kinds()].count("begin") == 1
    assert [(entry.result, entry.step, entry.changes) for entry in journals.entries()] == [("failed", "note:a", 2)]


def test_one_writer_at_a_time_writes_a_journal(journals):
    folder = journals.folder
    folder.mkdir(parents=True)
    change = Change("docker", Note("/nowhere/a"), "add", "", None, {"text": "wanted"}, ())
    write = journals.of("run-1", "deploy").before(change)
    writer = threading.Thread(target=lambda: ShellHost().batch([write], stop=False))
    with (folder / ".guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert not list(folder.glob("*.jsonl"))
    writer.join(60)
    assert journals.kinds() == [("begin", ""), ("change", "note:a")]
