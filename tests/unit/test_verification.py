"""Verification against a shell: many steps of a host at a time, and what several of them look at asked once."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from provision import live, verify
from provision.command import Answer
from provision.inventory import Connection, Host, Inventory
from provision.sequence import Entry
from provision.steps.base import Check, asked_once
from provision.verify import Verification

from .local import LocalSession
from .test_apply import Note

ROLES = frozenset({"docker"})


@dataclass(frozen=True)
class Looks(Note):
    """Its proof is a look that others share, and a count of its own."""

    def check(self, live):
        shared = asked_once(live, "echo look >>%s; wc -l <%s", f"{self.path}.looks", f"{self.path}.looks").stdout
        own = live.run("echo own >>%s; wc -l <%s", f"{self.path}.own", f"{self.path}.own").stdout
        yield Check("looks", shared.strip(), "1")
        yield Check("asks itself", own.strip() >= "1", True)


@dataclass(frozen=True)
class Breaks(Note):
    """Its proof cannot be read."""

    def check(self, live):
        yield Check("number", int(live.run("echo garbled").stdout), 1)


@dataclass(frozen=True)
class Named(Looks):
    """Looks of its own name at the same files."""

    name: str = ""

    @property
    def id(self):
        return f"note:{self.name}"


@pytest.fixture
def verified(monkeypatch):
    """Verifies steps on one host; its result."""

    def build(*things, dead=frozenset()):
        entries = tuple(Entry("docker", thing) for thing in things)
        monkeypatch.setattr(verify, "steps", lambda host, inventory: entries)
        monkeypatch.setattr(verify, "Session", lambda connection, password: LocalSession(dead))
        host = Host(name="h", connection=Connection(address="192.0.2.1"))
        verification = Verification(Inventory(path="", hosts=(host,)), (host,), ROLES, None, 4)
        [result] = verify.verify(verification, quiet=True)
        return result

    return build


def test_what_several_steps_look_at_is_asked_once_and_the_rest_each_time(verified, tmp_path):
    steps = [Named(str(tmp_path / "a"), name=str(number)) for number in range(12)]
    result = verified(*steps)
    assert (result.result, [one.step for one in result.steps]) == ("passed", [step.id for step in steps])
    assert (tmp_path / "a.looks").read_text() == "look\n"
    assert (tmp_path / "a.own").read_text() == "own\n" * 12


def test_the_next_verification_looks_again(verified, tmp_path):
    step = Looks(str(tmp_path / "a"))
    assert verified(step).result == "passed"
    assert verified(step).steps[0].checks[0].got == "2"


def test_a_step_that_breaks_fails_alone(verified, tmp_path):
    result = verified(Looks(str(tmp_path / "a")), Breaks(str(tmp_path / "b")))
    assert [one.passed for one in result.steps] == [True, False]
    assert "ValueError" in result.steps[1].problem


def test_a_connection_that_is_lost_fails_the_host_and_every_step_has_its_answer(verified, tmp_path):
    result = verified(*(Named(str(tmp_path / "a"), name=str(n)) for n in range(9)), dead=frozenset(range(1, 99)))
    assert (result.result, len(result.steps)) == ("unreachable", 9)
    assert {one.problem for one in result.steps} == {"the connection was lost"}


class Held:
    """A session whose first execs, as many as there are channels, end when they are let go."""

    def __init__(self):
        self.sizes, self.let_go = [], threading.Event()

    def batch(self, commands, *, stop):
        self.sizes.append(len(commands))
        if len(self.sizes) <= live.CHANNELS:
            self.let_go.wait(20)
        return [Answer(0, command.words[-1].encode()) for command in commands]


def test_what_is_asked_while_all_channels_are_taken_shares_an_exec():
    session = Held()
    backend = live.Backend(session, "h")
    with ThreadPoolExecutor(20) as pool:
        first = []
        for number in range(live.CHANNELS):
            first.append(pool.submit(backend.run, f"first {number}"))
            while len(session.sizes) <= number:
                time.sleep(0.01)
        rest = [pool.submit(backend.run, f"rest {n}") for n in range(live.TOGETHER + 1)]
        while len(backend._waiting) < len(rest):
            time.sleep(0.01)
        session.let_go.set()
        assert [one.result().stdout for one in first] == [f"first {n}" for n in range(live.CHANNELS)]
        assert [one.result().stdout for one in rest] == [f"rest {n}" for n in range(live.TOGETHER + 1)]
    assert sorted(session.sizes) == [1] * (live.CHANNELS + 1) + [live.TOGETHER]
