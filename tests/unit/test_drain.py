"""Draining by hand: which balancers are told what, and what is said when it does not come to that."""

from pathlib import Path
from typing import Any

import pytest

from provision import drain, rolling
from provision.artifacts import Store
from provision.cli import execute
from provision.context import Context
from provision.drain import Draining
from provision.errors import CommandError, LockedError, UsageError
from provision.inventory import Connection, Host, Inventory, Secret
from provision.steps.upstream import Drained, Member
from tests.unit.test_rolling import gpu

ONE, TWO = "a/ollama1", "a/ollama2"


class Fake:
    """A balancer as it is told who is drained."""

    made: dict[str, "Fake"] = {}  # noqa: RUF012 - the test's own

    def __init__(self, host: Host, *_: Any) -> None:
        self.host = host
        self.members = {name: Member("10.0.0.1", 3001, down=False) for name in (ONE, TWO)}
        self.drained: dict[str, Drained] = {}
        self.streams = 0
        self.locked = False
        Fake.made[host.name] = self

    def look(self) -> dict[str, Member]:
        return self.members

    def mark(self, *, drain: Any = None, undrain: Any = ()) -> bool:
        if self.locked:
            raise LockedError("locked by them")
        before = dict(self.drained)
        self.drained = {name: one for name, one in {**before, **(drain or {})}.items() if name not in undrain}
        return self.drained != before

    def wait(self, addresses: list[str], seconds: float) -> tuple[int, bool]:
        return self.streams, True

    def finish(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a Draining of words, over two balancers."""
    monkeypatch.setattr(rolling, "Marker", Fake)
    monkeypatch.setattr(drain.Turn, "test", lambda self, name: None)

    def build(*words: str, **variables: Any) -> Draining:
        lbs = (Host(name=n, groups=("balancer",), connection=Connection(address=n)) for n in ("lb-1", "lb-2"))
        one = gpu("a")
        hosts = (Host(**{**vars(one), "variables": variables}), gpu("b"), *lbs)
        context = Context("run", Inventory(path="", hosts=hosts), frozenset(), lambda _: None, Store(tmp_path))
        made = Draining(context, None, words)
        for host in made.context.inventory.hosts[:1]:
            made._rolling.markers(host)
        return made

    return build


def drained() -> list[set[str]]:
    return [set(Fake.made[name].drained) for name in ("lb-1", "lb-2")]


def test_every_balancer_is_told(make: Any) -> None:
    found = make("a").drain("for a new fan", 0.0)
    assert [(one.host, one.labels, one.changed, one.error) for one in found] == [
        (name, (ONE, TWO), True, None) for name in ("lb-1", "lb-2")
    ]
    assert drained() == [{ONE, TWO}] * 2
    assert Fake.made["lb-1"].drained[ONE].why == "for a new fan"


def test_one_instance_can_be_meant(make: Any) -> None:
    make("a/ollama2").drain("", 0.0)
    assert drained() == [{TWO}] * 2


def test_a_secret_in_a_reason_is_not_written_down(make: Any) -> None:
    make("a", password=Secret("hunter2-hunter2")).drain("its password is hunter2-hunter2", 0.0)
    assert "hunter2" not in Fake.made["lb-1"].drained[ONE].why


def test_streams_that_go_on_are_told_and_the_mark_stays(make: Any) -> None:
    made = make("a/ollama1")
    Fake.made["lb-2"].streams = 3
    found = made.drain("", 0.0)
    assert [one.error and one.error.message for one in found] == [None, "lb-2: 3 streams still run"]
    assert drained() == [{ONE}] * 2


def test_a_balancer_that_somebody_has_does_not_keep_the_other_from_being_told(make: Any) -> None:
    made = make("a/ollama1")
    Fake.made["lb-1"].locked = True
    found = made.drain("", 0.0)
    assert [one.error is None for one in found] == [False, True]
    assert drained() == [set(), {ONE}]


def test_what_is_in_no_upstream_cannot_be_drained(make: Any) -> None:
    made = make("a/ollama1")
    Fake.made["lb-1"].members = {}
    found = made.drain("", 0.0)
    assert "none of these is in its upstream" in found[0].error.message


def test_only_who_can_serve_is_given_back(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make("a").drain("", 0.0)
    before = dict(Fake.made["lb-1"].drained)

    def test(self: Any, name: str) -> None:
        if name == "ollama1":
            raise CommandError("a/ollama1 is not fit to serve")

    made = make("a")
    for fake in Fake.made.values():
        fake.drained = dict(before)
    monkeypatch.setattr(drain.Turn, "test", test)
    found = made.undrain()
    assert [(one.host, one.labels, one.error is None) for one in found] == [
        ("a", (ONE,), False),
        ("lb-1", (TWO,), True),
        ("lb-2", (TWO,), True),
    ]
    assert drained() == [{ONE}] * 2


@pytest.mark.parametrize("word", ["c", "lb-1", "a/ollama9", ""])
def test_what_is_not_there_is_a_usage_error(make: Any, word: str) -> None:
    with pytest.raises(UsageError, match=r"no such gpu host|has no instance"):
        make(word)


@pytest.mark.parametrize(
    "words",
    [["a", "-m", "two\nlines"], ["a", "-m", "x" * 201], ["a", "--timeout", "soon"], ["a", "--lock-wait", "-1"], []],
)
def test_what_cannot_be_said_is_a_usage_error(words: list[str]) -> None:
    assert execute(["drain", *words]) == 2
