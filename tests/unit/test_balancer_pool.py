"""How the pool of a balancer is read and changed while others may hold its lock."""

import functools
import time
from pathlib import Path
from typing import Any

import pytest

from provision.artifacts.store import Store
from provision.command import Answer
from provision.errors import CommandError, FactError, HostError, LockedError, RefusedError, UnreachableError
from provision.inventory import Mask, Secret
from provision.plan import role_interface
from provision.plan.role_interface import Entry
from provision.rollout.balancer_pool import BalancerPool, BalancerPools, update_all
from provision.runs import lease, lock
from provision.runs.context import Context, Stopped
from provision.steps.nginx import upstream
from provision.steps.nginx.generation import NO_CURL
from provision.steps.system.file_scan import Content

from .balancer_fleet import config, fleet, state
from .fake_roll import FakePool, gpu, pool_of, pools, roll

UP = {"gpu-01/ollama1": "10.0.0.11:3001"}
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


def make(tmp_path: Path, session: Any, monkeypatch: pytest.MonkeyPatch) -> BalancerPool:
    monkeypatch.setattr(lease, "POLL", 0.0)
    monkeypatch.setattr(role_interface, "steps", lambda host, inventory: (Entry("balancer", config(inventory)),))
    inventory = fleet()
    context = Context("run-1", inventory, frozenset(), lambda _: None, Store(tmp_path))
    made = BalancerPool(inventory.group("balancer")[0], session, context)
    monkeypatch.setattr(made, "_parsed", lambda answer: None)
    return made


def test_what_gets_back_in_waits_for_somebody_elses_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(3), monkeypatch)
    made.context.stop.set()
    assert made.update(up=UP) is False  # there is nothing to mark, once it has the lock


def test_and_what_is_taken_out_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(3), monkeypatch)
    with pytest.raises(LockedError):
        made.update(down=["gpu-01/ollama1"])


def test_nor_does_it_wait_after_the_second_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(3), monkeypatch)
    made.context.cut.set()
    with pytest.raises(LockedError):
        made.update(up=UP)


def test_who_is_in_the_upstream_is_known_also_while_nginx_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path, Busy(0), monkeypatch)
    found = state(config(fleet()))
    assert not found["exe"]
    monkeypatch.setattr(made, "_parsed", lambda answer: found)
    assert sorted(made.members()) == [f"gpu-0{host}/ollama{one}" for host in (1, 2) for one in (1, 2)]


def test_an_upstream_that_somebody_else_edited_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its instances may serve, and would be replaced without a wait for their streams."""
    made = make(tmp_path, Busy(0), monkeypatch)
    found = state(config(fleet()))
    text = found["files"][upstream.FILE].data.replace(b"; # gpu-01/ollama1", b";")
    monkeypatch.setattr(made, "_parsed", lambda answer: {**found, "files": {upstream.FILE: Content(text)}})
    with pytest.raises(RefusedError, match="`provision deploy --tags balancer`"):
        made.members()
    monkeypatch.setattr(made, "_parsed", lambda answer: None)
    assert made.members() == {}


def test_what_cannot_be_known_of_a_balancer_is_said_and_no_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_curl = Answer(NO_CURL, b"", b"curl is not there to ask with")
    made = make(tmp_path, Fixed(without_curl), monkeypatch)
    monkeypatch.setattr(made, "_parsed", functools.partial(BalancerPool._parsed, made))
    with pytest.raises(FactError) as found:
        made.members()
    assert found.value.message == "lb-01: config:balancer: known after packages:nginx"


def test_an_error_shows_no_secret_of_the_balancer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Busy(0), monkeypatch)
    made._hide = Mask([Secret("swordfish")])

    def fail(answer: Answer) -> None:
        raise CommandError("no swordfish", "a swordfish", command="cat swordfish", stderr="swordfish!")

    monkeypatch.setattr(made, "_parsed", fail)
    with pytest.raises(CommandError) as found:
        made.members()
    error = found.value
    assert "swordfish" not in f"{error.message} {error.hint} {error.command} {error.stderr}"
    assert error.message.startswith("lb-01: no ")


def test_the_lock_of_a_mark_that_may_still_be_made_is_left_to_end_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Asked(lost=1)
    made = make(tmp_path, session, monkeypatch)
    with pytest.raises(UnreachableError):
        made.update(down=["gpu-01/ollama1"])
    made.finish()
    assert len(session.execs) == 1


def test_so_is_that_of_a_balancer_whose_own_change_may_still_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Asked()
    made = make(tmp_path, session, monkeypatch)
    monkeypatch.setattr(made, "_parsed", lambda answer: state(config(fleet())))
    made.update(down=[])
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
        made.update(down=["gpu-01/ollama1"])
    made.finish()
    ending, released = session.execs[-1]
    assert b'"record": "failed", "step": "config:balancer"' in ending.stdin
    assert b'"record": "end", "result": "failed"' in ending.stdin
    assert released.title == "release the lock"


class Connected(Asked):
    """A balancer that says how many connections are left.

    Args:
        looks: what each look says.
    """

    def __init__(self, *looks: str) -> None:
        super().__init__()
        self.looks = list(looks)
        self.waits: list[tuple[str, ...]] = []

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        super().batch(commands, stop=stop)
        self.waits.append(commands[-1].words)
        return [*[Answer(0, b"", b"")] * (len(commands) - 1), Answer(0, self.looks.pop(0).encode(), b"")]


@pytest.mark.parametrize(
    ("looks", "seconds", "left", "waited"),
    [
        (["open 0"], 60, (0, True), []),
        (["open 2", "open 1", "open 0"], 60, (0, True), [2, 1]),
        (["open 2", "closed 2"], 60, (2, False), [2]),
        (["open 3"], 0, (3, True), []),
    ],
    ids=["none", "they end", "a dead instance ends none", "no longer than is said"],
)
def test_it_waits_until_instances_are_idle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    looks: list[str],
    seconds: float,
    left: tuple[int, bool],
    waited: list[int],
) -> None:
    session, counts = Connected(*looks), []  # type: ignore[var-annotated]
    made = make(tmp_path, session, monkeypatch)
    assert made.wait_idle(["10.0.0.11:3001"], time.monotonic() + seconds, counts.append) == left
    assert counts == waited
    assert session.looks == []


def test_a_wait_for_streams_ends_where_the_one_who_waits_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(count: int) -> None:
        raise Stopped("stopped")

    made = make(tmp_path, Connected("open 2"), monkeypatch)
    with pytest.raises(Stopped):
        made.wait_idle(["10.0.0.11:3001"], time.monotonic() + 60, stop)


def test_a_balancer_that_cannot_count_connections_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path, Connected("what"), monkeypatch)
    with pytest.raises(HostError, match="lb-01: "):
        made.wait_idle(["10.0.0.11:3001"], time.monotonic() + 60, lambda count: None)


def test_the_balancers_of_all_hosts_have_one_pool_each(tmp_path: Path) -> None:
    hosts = [gpu("a"), gpu("b")]
    made = roll(tmp_path, *hosts, balancers=2)
    assert pools(made, hosts[0]) == pools(made, hosts[1])
    assert [pool.host.name for pool in made.pools.known] == ["lb-0", "lb-1"]


def test_who_sent_to_an_instance_is_asked_once(tmp_path: Path) -> None:
    host = gpu("a")
    made = roll(tmp_path, host, balancers=3)
    sends, dead, keeps_it_out = pools(made, host)
    dead.unreachable, keeps_it_out.down = True, {"a/ollama1"}
    assert made.pools.sending_to(host, "a/ollama1") == [sends]
    dead.unreachable, keeps_it_out.down = False, set()
    assert made.pools.sending_to(host, "a/ollama1") == [sends]
    assert [pool.looks for pool in (sends, dead, keeps_it_out)] == [1, 1, 1]


def test_every_pool_is_updated_also_after_one_that_failed(tmp_path: Path) -> None:
    host = gpu("a")
    made = roll(tmp_path, host, balancers=3)
    first, second, third = pools(made, host)
    first.unreachable, second.taken = True, True
    with pytest.raises(HostError, match="lb-0: lost") as error:
        update_all(made.pools.of(host), lambda pool: pool.update(down=["a/ollama1"]))
    assert not isinstance(error.value, UnreachableError), "the gpu host was reached"
    assert third.down == {"a/ollama1"}


def test_after_the_second_ctrl_c_a_lost_balancer_is_what_it_is(tmp_path: Path) -> None:
    host = gpu("a")
    made = roll(tmp_path, host)
    pool_of(made).unreachable = True
    made.context.cut.set()
    with pytest.raises(UnreachableError):
        update_all(made.pools.of(host), lambda pool: pool.update(down=["a/ollama1"]))


def test_all_pools_give_their_locks_back(tmp_path: Path) -> None:
    ended: list[str] = []

    class Ending(FakePool):
        def finish(self) -> None:
            ended.append(self.host.name)

    host = gpu("a")
    made = BalancerPools(roll(tmp_path, host, balancers=2).context, make=Ending)  # type: ignore[arg-type]
    made.of(host)
    made.finish()
    assert ended == ["lb-0", "lb-1"]


def test_its_lock_is_renewed_only_while_an_instance_is_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the hours in which hosts pull models, an operator can drain another instance."""
    made = make(tmp_path, Busy(0), monkeypatch)
    found = state(config(fleet()))
    monkeypatch.setattr(made, "_parsed", lambda answer: found)
    monkeypatch.setattr(made, "_change", lambda step, have: True)
    made.update(down=["gpu-01/ollama1"])
    assert made._lease.wanted()
    made.update(up=UP)
    assert not made._lease.wanted()
