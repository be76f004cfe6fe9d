"""How a balancer's marks are read and changed while others may hold its lock."""

import functools
from pathlib import Path
from typing import Any

import pytest

from provision.artifacts.store import Store
from provision.command import Answer
from provision.errors import CommandError, FactError, LockedError, RefusedError, UnreachableError
from provision.inventory import Mask, Secret
from provision.plan import role_order
from provision.plan.role_order import Entry
from provision.rollout.balancer_pool import Marker
from provision.runs import lease, lock
from provision.runs.context import Context
from provision.steps.nginx import upstream
from provision.steps.nginx.generation import NO_CURL
from provision.steps.system.file_scan import Content

from .balancer_fleet import config, fleet, state

THEIRS = Answer(lock.EXIT_HELD, b"", b"run-2 900 100 200 no them@there\n\n")


class Busy:
    """A balancer whose lock somebody else holds for some more looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        self.looks -= 1
        return [THEIRS if self.looks >= 0 else Answer(0, b"", b"")] * len(commands)


class Fixed:
    """A balancer that says one thing to everything."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        return [self.answer] * len(commands)


class Asked:
    """A balancer that says yes, and is lost at some exec.

    Args:
        lost: its number, from 1.
    """

    def __init__(self, lost: int = 0) -> None:
        self.lost = lost
        self.execs: list[list[Any]] = []

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        self.execs.append(list(commands))
        if len(self.execs) == self.lost:
            raise UnreachableError("the connection was lost")
        return [Answer(0, b"", b"")] * len(commands)

    def close(self) -> None:
        """There is nothing to close."""


def make(tmp_path: Path, session: Any, monkeypatch: pytest.MonkeyPatch) -> Marker:
    monkeypatch.setattr(lease, "POLL", 0.0)
    monkeypatch.setattr(role_order, "steps", lambda host, inventory: (Entry("balancer", config(inventory)),))
    inventory = fleet()
    context = Context("run-1", inventory, frozenset(), lambda _: None, Store(tmp_path))
    made = Marker(inventory.group("balancer")[0], session, context)
    monkeypatch.setattr(made, "_parsed", lambda answer: None)
    return made


def test_what_gets_back_in_waits_for_somebody_elses_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(3), monkeypatch)
    made.context.stop.set()
    assert made.mark(up=["gpu-01/ollama1"]) is False  # there is nothing to mark, once it has the lock


def test_and_what_is_taken_out_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(3), monkeypatch)
    with pytest.raises(LockedError):
        made.mark(down=["gpu-01/ollama1"])


def test_nor_does_it_wait_after_the_second_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(3), monkeypatch)
    made.context.cut.set()
    with pytest.raises(LockedError):
        made.mark(up=["gpu-01/ollama1"])


def test_who_is_in_the_upstream_is_known_also_while_nginx_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, Busy(0), monkeypatch)
    found = state(config(fleet()))
    assert not found["exe"]
    monkeypatch.setattr(made, "_parsed", lambda answer: found)
    assert sorted(made.look()) == [f"gpu-0{host}/ollama{one}" for host in (1, 2) for one in (1, 2)]


def test_an_upstream_that_somebody_else_edited_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its instances may serve, and would be replaced without a wait for their streams."""
    made = make(tmp_path, Busy(0), monkeypatch)
    found = state(config(fleet()))
    text = found["files"][upstream.FILE].data.replace(b"; # gpu-01/ollama1", b";")
    monkeypatch.setattr(made, "_parsed", lambda answer: {**found, "files": {upstream.FILE: Content(text)}})
    with pytest.raises(RefusedError, match="`provision deploy --tags balancer`"):
        made.look()
    monkeypatch.setattr(made, "_parsed", lambda answer: None)
    assert made.look() == {}


def test_what_cannot_be_known_of_a_balancer_is_said_and_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_curl = Answer(NO_CURL, b"", b"curl is not there to ask with")
    made = make(tmp_path, Fixed(without_curl), monkeypatch)
    monkeypatch.setattr(made, "_parsed", functools.partial(Marker._parsed, made))
    with pytest.raises(FactError) as found:
        made.look()
    assert found.value.message == "lb-01: config:balancer: known after packages:nginx"


def test_an_error_shows_no_secret_of_the_balancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(0), monkeypatch)
    made._hide = Mask([Secret("swordfish")])

    def fail(answer: Answer) -> None:
        raise CommandError("no swordfish", "a swordfish", command="cat swordfish", stderr="swordfish!")

    monkeypatch.setattr(made, "_parsed", fail)
    with pytest.raises(CommandError) as found:
        made.look()
    error = found.value
    assert "swordfish" not in f"{error.message} {error.hint} {error.command} {error.stderr}"
    assert error.message.startswith("lb-01: no ")


def test_the_lock_of_a_mark_that_may_still_be_made_is_left_to_end_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Asked(lost=1)
    made = make(tmp_path, session, monkeypatch)
    with pytest.raises(UnreachableError):
        made.mark(down=["gpu-01/ollama1"])
    made.finish()
    assert len(session.execs) == 1


def test_so_is_that_of_a_balancer_whose_own_change_may_still_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Asked()
    made = make(tmp_path, session, monkeypatch)
    monkeypatch.setattr(made, "_parsed", lambda answer: state(config(fleet())))
    made.mark(down=[])
    assert made.locked
    before = len(session.execs)
    made.context.cut_off.add("lb-01")
    made.finish()
    assert [command.title for commands in session.execs[before:] for command in commands] == []


def test_a_mark_that_failed_is_one_in_the_journal_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Asked()
    made = make(tmp_path, session, monkeypatch)
    monkeypatch.setattr(made, "_parsed", lambda answer: state(config(fleet())))

    def fail(step: Any, have: Any) -> bool:
        made._performer.journal.changes.append(step.id)
        raise CommandError("nginx -t exited 1", step=step.id)

    monkeypatch.setattr(made, "_change", fail)
    with pytest.raises(CommandError):
        made.mark(down=["gpu-01/ollama1"])
    made.finish()
    ending, released = session.execs[-1]
    assert b'"record": "failed", "step": "config:balancer"' in ending.stdin
    assert b'"record": "end", "result": "failed"' in ending.stdin
    assert released.title == "release the lock"
