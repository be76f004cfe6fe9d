"""What is made on a host that the balancers list already gets no requests before it has proved itself."""

from pathlib import Path
from typing import Any

import pytest

from provision.errors import CommandError, HostError, LockedError, RefusedError
from provision.rollout import budget
from provision.rollout.traffic import Turn

from .test_budget import Fake, gpu, make

ONE = "a/ollama1"


class Counted(Fake):
    """Counts how often it is asked."""

    looks = 0

    def look(self) -> Any:
        type(self).looks += 1
        return super().look()


class Lease:
    """Notes nothing."""

    held = False

    def renew(self) -> None:
        """There is no host."""


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "Marker", Counted)
    monkeypatch.setattr(Counted, "looks", 0)


def turn(made: Any, host: Any, monkeypatch: pytest.MonkeyPatch, *, fit: bool = True) -> Turn:
    found = Turn(host, None, Lease(), made, made.context, lambda *_: None)  # type: ignore[arg-type]

    def test(instance: str) -> str:
        if not fit:
            raise CommandError("it does not answer")
        return f"10.0.0.1:300{instance[-1]}"

    monkeypatch.setattr(found, "test", test)
    return found


def test_it_is_held_and_admitted_when_it_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = gpu("a")
    made = make(tmp_path, host, balancers=3)
    here, dead, knows_none = made.markers(host)  # type: Any, Any, Any
    dead.unreachable, knows_none.members = True, {}
    one = turn(made, host, monkeypatch)
    assert one.hold_back("ollama1")
    assert (here.down, knows_none.down) == ({ONE}, set())
    assert made.waiting([host]) == {ONE}
    dead.unreachable = False
    one.admit()
    assert here.down == set()


def test_it_stays_out_when_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = gpu("a")
    made = make(tmp_path, host)
    one = turn(made, host, monkeypatch, fit=False)
    one.hold_back("ollama1")
    with pytest.raises(HostError):
        one.admit()
    assert (made.markers(host)[0].down, made.unfit) == ({ONE}, {ONE})  # type: ignore[attr-defined]
    assert "does not answer" in made.halted


def test_where_a_balancer_sends_to_it_and_cannot_be_told_it_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = gpu("a")
    made = make(tmp_path, host, balancers=2)
    first, second = made.markers(host)  # type: Any, Any

    def refuse(**_: Any) -> None:
        raise LockedError("lb-0: somebody is at work")

    monkeypatch.setattr(first, "mark", refuse)
    with pytest.raises(LockedError, match="somebody"):
        turn(made, host, monkeypatch).hold_back("ollama1")
    assert second.down == {ONE}


def test_where_an_upstream_was_edited_nothing_is_made_that_it_may_send_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = gpu("a")
    made = make(tmp_path, host)

    def refuse() -> Any:
        raise RefusedError("lb-0: upstream.conf has servers that provision did not write")

    monkeypatch.setattr(made.markers(host)[0], "look", refuse)
    for _ in range(2):
        with pytest.raises(RefusedError, match="did not write"):
            turn(made, host, monkeypatch).hold_back("ollama1")


def test_every_balancer_is_asked_once_also_a_dead_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = [gpu(name) for name in "abcd"]
    made = make(tmp_path, *hosts)
    made.markers(hosts[0])[0].unreachable = True  # type: ignore[attr-defined]
    for host in hosts:
        assert not turn(made, host, monkeypatch).hold_back("ollama1")
    assert Counted.looks == 1


def test_what_came_back_by_a_rollback_and_is_not_declared_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = gpu("a")
    made = make(tmp_path, host)
    made.markers(host)[0].members["a/gone"] = 3009  # type: ignore[attr-defined]
    one = turn(made, host, monkeypatch)
    one.hold_back("gone")
    one.admit()
    assert made.markers(host)[0].down == {"a/gone"}  # type: ignore[attr-defined]


def test_a_balancer_that_cannot_be_told_keeps_no_other_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = gpu("a")
    made = make(tmp_path, host, balancers=2)
    one = turn(made, host, monkeypatch)
    one.hold_back("ollama1")
    first, second = made.markers(host)  # type: Any, Any
    first.unreachable = True
    with pytest.raises(HostError, match="lost"):
        one.admit()
    assert second.down == set()
