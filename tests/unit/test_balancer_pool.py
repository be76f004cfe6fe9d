"""Reads and changes of the pool of a balancer, also while another run holds the lock."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from provision import testing
from provision.artifacts.store import Store
from provision.command import Answer
from provision.errors import CommandError, FactError, HostError, LockedError, RefusedError, UnreachableError
from provision.events import ignore
from provision.inventory import Host, Inventory, Mask, Secret
from provision.plan.role_interface import Entry
from provision.rollout.balancer_pool import BalancerPool, BalancerPools, update_all
from provision.runs import lock
from provision.runs.context import Context, Stopped
from provision.runs.setup import Timings
from provision.steps.base import Fact, State, Step
from provision.steps.nginx import upstream
from provision.steps.nginx.generation import NO_CURL
from provision.steps.system.file_scan import Content

from .balancer_fleet import config, fleet, state
from .fake_roll import FakePool, gpu, pool_of, pools, roll

UP = {"gpu-01/ollama1": "10.0.0.11:3001"}
THEIRS = Answer(lock.EXIT_HELD, b"", b"run-2 900 100 200 no them@there\n\n")


class Busy:
    """A balancer whose lock another run holds for a number of execs."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        self.looks -= 1
        return [THEIRS if self.looks >= 0 else Answer(0, b"", b"")] * len(commands)


class Fixed:
    """A balancer with the same answer to every command."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        return [self.answer] * len(commands)


class Asked:
    """A balancer on which every command succeeds, until the connection is lost.

    Args:
        lost: the number of the exec that loses the connection, from 1; 0 means no exec.
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
        """Do nothing: no connection is open."""


class Told:
    """The configuration of a balancer, with a state of the test.

    Args:
        step: the configuration.
        parse: returns the state.
    """

    def __init__(self, step: Any, parse: Callable[[Answer], State]) -> None:
        self._step, self._parse = step, parse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._step, name)

    def fact(self) -> Fact:
        return Fact(self._step.fact().command, self._parse)


def nothing(answer: Answer) -> State:
    """There is no configuration yet."""
    return None


def found(answer: Answer) -> State:
    """The balancer has the configuration of the fleet."""
    return state(config(fleet()))


def make(tmp_path: Path, session: Any, parse: Callable[[Answer], State] | None = nothing) -> BalancerPool:
    """Make a pool.

    Args:
        tmp_path: folder of the test.
        session: the balancer.
        parse: returns the state of the configuration; None for the parser of the step.
    """

    def steps(host: Host, inventory: Inventory) -> tuple[Entry, ...]:
        step = config(inventory)
        return (Entry("balancer", cast(Step, Told(step, parse)) if parse else step),)

    inventory = fleet()
    setup = testing.setup(tmp_path, steps=steps, timings=Timings(lock_poll=0.0))
    context = Context("run-1", inventory, frozenset(), ignore, Store(tmp_path), setup=setup)
    return BalancerPool(inventory.group("balancer")[0], session, context)


def test_an_uncordon_waits_for_the_lock_of_another_run(tmp_path: Path) -> None:
    made = make(tmp_path, Busy(3))
    made.context.stop.set()
    assert made.update(up=UP) is False  # with the lock at last, the pool finds no member to mark


def test_a_cordon_does_not_wait_for_the_lock_of_another_run(tmp_path: Path) -> None:
    made = make(tmp_path, Busy(3))
    with pytest.raises(LockedError):
        made.update(down=["gpu-01/ollama1"])


def test_an_uncordon_does_not_wait_after_the_second_ctrl_c(tmp_path: Path) -> None:
    made = make(tmp_path, Busy(3))
    made.context.cut.set()
    with pytest.raises(LockedError):
        made.update(up=UP)


def test_the_members_are_known_while_nginx_is_stopped(tmp_path: Path) -> None:
    made = make(tmp_path, Busy(0), found)
    assert not state(config(fleet()))["exe"]
    assert sorted(made.members()) == [f"gpu-0{host}/ollama{one}" for host in (1, 2) for one in (1, 2)]


def test_an_edited_upstream_does_not_count_as_empty(tmp_path: Path) -> None:
    """The instances may serve, and the run would replace the instances without a wait for streams."""
    have = state(config(fleet()))
    text = have["files"][upstream.FILE].data.replace(b"; # gpu-01/ollama1", b";")
    edited = {**have, "files": {upstream.FILE: Content(text)}}
    with pytest.raises(RefusedError, match="`provision deploy --tags balancer`"):
        make(tmp_path, Busy(0), lambda answer: edited).members()
    assert make(tmp_path, Busy(0)).members() == {}


def test_an_unknown_state_of_a_balancer_is_an_error_and_no_bug(tmp_path: Path) -> None:
    without_curl = Answer(NO_CURL, b"", b"curl is not there to ask with")
    made = make(tmp_path, Fixed(without_curl), parse=None)
    with pytest.raises(FactError) as error:
        made.members()
    assert error.value.message == "lb-01: config:balancer: known after packages:nginx"


def test_an_error_shows_no_secret_of_the_balancer(tmp_path: Path) -> None:

    def fail(answer: Answer) -> None:
        raise CommandError("no swordfish", "a swordfish", command="cat swordfish", stderr="swordfish!")

    made = make(tmp_path, Busy(0), fail)
    made._hide = Mask([Secret("swordfish")])
    with pytest.raises(CommandError) as caught:
        made.members()
    error = caught.value
    assert "swordfish" not in f"{error.message} {error.hint} {error.command} {error.stderr}"
    assert error.message.startswith("lb-01: no ")


def test_the_lock_of_an_update_of_unknown_end_is_left_to_expire(tmp_path: Path) -> None:
    session = Asked(lost=1)
    made = make(tmp_path, session)
    with pytest.raises(UnreachableError):
        made.update(down=["gpu-01/ollama1"])
    made.finish()
    assert len(session.execs) == 1


def test_the_lock_of_a_cut_off_balancer_is_left_to_expire(tmp_path: Path) -> None:
    session = Asked()
    made = make(tmp_path, session, found)
    made.update(down=[])
    assert made.locked
    before = len(session.execs)
    made.context.cut_off.add("lb-01")
    made.finish()
    assert [command.title for commands in session.execs[before:] for command in commands] == []


class Refusing(Asked):
    """A balancer whose nginx takes no new configuration."""

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        answers = super().batch(commands, stop=stop)
        for number, command in enumerate(commands):
            if str(command).startswith("check with nginx -t"):
                return [*answers[:number], Answer(1, b"", b"nginx: configuration file test failed")]
        return answers


def test_a_failed_mark_is_recorded_in_the_journal(tmp_path: Path) -> None:
    session = Refusing()
    made = make(tmp_path, session, found)
    with pytest.raises(CommandError, match="check with nginx -t"):
        made.update(down=["gpu-01/ollama1"])
    made.finish()
    ending, released = session.execs[-1]
    assert b'"record": "failed", "step": "config:balancer"' in ending.stdin
    assert b'"record": "end", "result": "failed"' in ending.stdin
    assert released.title == "release the lock"


class Connected(Asked):
    """A balancer that reports the number of open connections.

    Args:
        looks: the reports, in order.
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
    ids=["no stream", "the streams end", "a dead instance ends no stream", "the time is over"],
)
def test_a_pool_waits_until_instances_are_idle(
    tmp_path: Path,
    looks: list[str],
    seconds: float,
    left: tuple[int, bool],
    waited: list[int],
) -> None:
    session, counts = Connected(*looks), []  # type: ignore[var-annotated]
    made = make(tmp_path, session)
    assert made.wait_idle(["10.0.0.11:3001"], time.monotonic() + seconds, counts.append) == left
    assert counts == waited
    assert session.looks == []


def test_a_wait_for_streams_ends_when_the_caller_stops(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise Stopped("stopped")

    made = make(tmp_path, Connected("open 2"))
    with pytest.raises(Stopped):
        made.wait_idle(["10.0.0.11:3001"], time.monotonic() + 60, stop)


def test_a_balancer_that_cannot_count_connections_is_named(tmp_path: Path) -> None:
    made = make(tmp_path, Connected("what"))
    with pytest.raises(HostError, match="lb-01: "):
        made.wait_idle(["10.0.0.11:3001"], time.monotonic() + 60, lambda count: None)


def test_the_balancers_of_all_hosts_have_one_pool_each(tmp_path: Path) -> None:
    hosts = [gpu("a"), gpu("b")]
    made = roll(tmp_path, *hosts, balancers=2)
    assert pools(made, hosts[0]) == pools(made, hosts[1])
    assert [pool.host.name for pool in made.pools.known] == ["lb-0", "lb-1"]


def test_the_first_members_are_asked_once(tmp_path: Path) -> None:
    host = gpu("a")
    made = roll(tmp_path, host, balancers=3)
    sends, dead, keeps_it_out = pools(made, host)
    dead.unreachable, keeps_it_out.down = True, {"a/ollama1"}
    assert made.pools.sending_to(host, "a/ollama1") == [sends]
    dead.unreachable, keeps_it_out.down = False, set()
    assert made.pools.sending_to(host, "a/ollama1") == [sends]
    assert [pool.looks for pool in (sends, dead, keeps_it_out)] == [1, 1, 1]


def test_every_pool_is_updated_even_after_a_failed_pool(tmp_path: Path) -> None:
    host = gpu("a")
    made = roll(tmp_path, host, balancers=3)
    first, second, third = pools(made, host)
    first.unreachable, second.taken = True, True
    with pytest.raises(HostError, match="lb-0: lost") as error:
        update_all(made.pools.of(host), lambda pool: pool.update(down=["a/ollama1"]))
    assert not isinstance(error.value, UnreachableError), "the gpu host was reached"
    assert third.down == {"a/ollama1"}


def test_after_the_second_ctrl_c_a_lost_balancer_counts_as_unreachable(tmp_path: Path) -> None:
    host = gpu("a")
    made = roll(tmp_path, host)
    pool_of(made).unreachable = True
    made.context.cut.set()
    with pytest.raises(UnreachableError):
        update_all(made.pools.of(host), lambda pool: pool.update(down=["a/ollama1"]))


def test_all_pools_return_their_locks(tmp_path: Path) -> None:
    ended: list[str] = []

    class Ending(FakePool):
        def finish(self) -> None:
            ended.append(self.host.name)

    host = gpu("a")
    made = BalancerPools(roll(tmp_path, host, balancers=2).context, make=Ending)  # type: ignore[arg-type]
    made.of(host)
    made.finish()
    assert ended == ["lb-0", "lb-1"]


def test_the_lock_of_a_balancer_is_renewed_only_while_an_instance_is_out(tmp_path: Path) -> None:
    """While hosts pull models for hours, an operator can drain another instance."""
    have = {False: state(config(fleet())), True: state(config(fleet()))}
    text = have[True]["files"][upstream.FILE].data.replace(b"; # gpu-01/ollama1", b" down; # gpu-01/ollama1")
    have[True]["files"][upstream.FILE] = Content(text)
    is_down = [True]
    made = make(tmp_path, Busy(0), lambda answer: have[is_down[0]])
    made.update(down=["gpu-01/ollama1"])
    assert made._lease.wanted()
    is_down[0] = False
    made.update(up=UP)
    assert not made._lease.wanted()
