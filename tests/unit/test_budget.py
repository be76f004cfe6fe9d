"""Who may be out of the upstream at once, and what halts a roll."""

import threading
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from provision.artifacts.store import Store
from provision.errors import HostError, RefusedError, UnreachableError
from provision.inventory import Connection, Host, Instance, Inventory
from provision.roles import ollama
from provision.rollout import budget
from provision.rollout.budget import Rolling
from provision.rollout.traffic import Turn
from provision.runs.context import Context, Stopped
from provision.steps.base import EVERY
from provision.steps.nginx.upstream import Member

ONE = frozenset({"ollama1"})


class Fake:
    """A balancer as Rolling sees it."""

    def __init__(self, host: Host, *_: Any) -> None:
        self.host = host
        self.touched = False
        self.unreachable = False
        self.down: set[str] = set()
        self.drained: set[str] = set()
        self.renewed = threading.Event()
        self.members: dict[str, int] = {}
        self.connections: list[tuple[int, bool]] = []

    def look(self) -> dict[str, Member]:
        if self.unreachable:
            raise UnreachableError("no route")
        down, drained = self.down | self.drained, self.drained
        return {name: Member("10.0.0.1", at, name in down, name in drained) for name, at in self.members.items()}

    def mark(self, *, down: Any = (), up: Any = MappingProxyType({})) -> None:
        if self.unreachable:
            raise UnreachableError(f"{self.host.name}: lost")
        for name, place in up.items():
            if place.before in self.members:
                self.members.pop(place.before)
                self.members[name] = int(place.at.rpartition(":")[2] or 0)
                self.down.discard(place.before)
        self.down = (self.down | set(down)) - set(up)

    def renew(self) -> None:
        self.renewed.set()

    def finish(self) -> None:
        """Nothing to give back."""

    def wait(self, addresses: list[str], seconds: float) -> tuple[int, bool]:
        return self.connections.pop(0) if self.connections else (0, True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "Marker", Fake)
    monkeypatch.setattr(budget, "TICK", 0.01)
    monkeypatch.setattr(budget, "LOOK", 0.01)


def gpu(name: str, models: tuple[tuple[str, ...], ...] = (("m",), ("m",)), **settings: Any) -> Host:
    serving = ollama.serving(ollama.Settings(**settings))
    instances = tuple(
        Instance(host=name, name=f"ollama{n}", gpus=(n,), port=3000 + n, models=one, **vars(serving))
        for n, one in enumerate(models, 1)
    )
    return Host(
        name=name,
        groups=("gpu",),
        connection=Connection(address=name),
        instances=instances,
        undeclared=serving,
    )


def make(tmp_path: Path, *hosts: Host, balancers: int = 1) -> Rolling:
    lbs = tuple(
        Host(name=f"lb-{n}", groups=("balancer",), connection=Connection(address=f"lb-{n}")) for n in range(balancers)
    )
    context = Context("run", Inventory(path="", hosts=(*hosts, *lbs)), frozenset(), lambda _: None, Store(tmp_path))
    made = Rolling(context)
    for host in hosts:
        for marker in made.markers(host):
            marker.members.update({f"{host.name}/{one.name}": one.port for one in host.instances})  # type: ignore[attr-defined]
    return made


def fits(made: Rolling, host: Host, names: frozenset[str] = ONE) -> bool:
    """Whether they may be taken out at once; they are, if so."""

    def give_up(text: str) -> None:
        raise TimeoutError

    try:
        made.begin(made.served(host, names), give_up)
    except TimeoutError:
        return False
    return True


def test_one_instance_of_a_model_is_out_at_a_time(tmp_path: Path) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two)
    assert fits(made, one)
    assert not fits(made, two)
    made.drop("a/ollama1")
    assert fits(made, two)


def test_instances_of_other_models_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, two = gpu("a", (("m",),)), gpu("b", (("n",),))
    made = make(tmp_path, one, two)
    assert fits(made, one)
    assert fits(made, two)


@pytest.mark.parametrize(("said", "out"), [(2, 2), ("50%", 2), ("25%", 1), ("1%", 1), ("100%", 4)])
def test_as_many_as_may_be_unavailable(tmp_path: Path, said: Any, out: int) -> None:
    hosts = [gpu(name, (("m",),), max_unavailable=said) for name in "abcd"]
    made = make(tmp_path, *hosts)
    assert sum(fits(made, host) for host in hosts) == out


def test_a_whole_host_goes_where_nothing_else_is_out(tmp_path: Path) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two)
    assert fits(made, two)
    assert not fits(made, one, EVERY)
    made.drop("b/ollama1")
    assert fits(made, one, EVERY)
    assert not fits(made, two)


def test_who_gets_no_requests_needs_no_turn(tmp_path: Path) -> None:
    one = gpu("a")
    made = make(tmp_path, one)
    marker: Any = made.markers(one)[0]
    marker.drained = {"a/ollama1"}
    assert not made.served(one, ONE).at
    marker.drained, marker.members = set(), {}
    assert not made.served(one, EVERY).at


def test_hosts_that_balance_for_themselves_do_not_wait_for_each_other(tmp_path: Path) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two, balancers=0)
    assert fits(made, one)
    assert fits(made, two)


def test_every_balancer_is_told_both_ways(tmp_path: Path) -> None:
    one = gpu("a")
    made = make(tmp_path, one, balancers=2)
    served = made.served(one, ONE)
    made.begin(served, lambda _: None)
    made.drain(served, lambda _: None, lambda _: None)
    markers: list[Any] = made.markers(one)
    assert [marker.down for marker in markers] == [{"a/ollama1"}] * 2
    made.back("a/ollama1", "10.0.0.1:3001")
    assert [marker.down for marker in markers] == [set()] * 2


def test_streams_are_waited_for_and_what_is_dead_is_not(tmp_path: Path) -> None:
    one = gpu("a")
    made = make(tmp_path, one)
    marker: Any = made.markers(one)[0]
    marker.connections = [(2, True), (1, True), (1, False)]
    served, waited, told = made.served(one, ONE), [], []  # type: ignore[var-annotated]
    made.begin(served, lambda _: None)
    made.drain(served, waited.append, told.append)
    assert [text.split()[1] for text in waited] == ["2", "1"]
    assert told == ["waiting no longer: 1 streams through lb-0 are cut (it does not answer any more)"]


def test_after_the_longest_wait_it_is_told_what_is_cut(tmp_path: Path) -> None:
    one = gpu("a", drain_timeout="0s")
    made = make(tmp_path, one)
    marker: Any = made.markers(one)[0]
    marker.connections = [(3, True)]
    served, told = made.served(one, ONE), []  # type: ignore[var-annotated]
    made.begin(served, lambda _: None)
    made.drain(served, lambda _: None, told.append)
    assert told == ["waiting no longer: 3 streams through lb-0 are cut (after 0 s)"]


def test_a_balancer_that_cannot_be_asked_forbids_it(tmp_path: Path) -> None:
    one = gpu("a")
    made = make(tmp_path, one, balancers=2)
    marker: Any = made.markers(one)[1]
    marker.unreachable = True
    with pytest.raises(RefusedError, match="lb-1 cannot be reached, and may send to the instances of a"):
        made.served(one, ONE)


def test_one_that_is_left_out_halts_the_roll_also_for_who_waits(tmp_path: Path) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two)
    assert fits(made, one)
    found: list[BaseException] = []

    def wait() -> None:
        try:
            made.begin(made.served(two, ONE), lambda _: None)
        except Stopped as error:
            found.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    made.leave("a/ollama1", "a/ollama1 is not fit to serve")
    waiting.join(5)
    assert "a/ollama1 is not fit to serve" in str(found[0])
    assert made.halted == "a/ollama1 is not fit to serve"
    assert made.unfit == {"a/ollama1"}


def test_what_a_run_left_out_takes_a_turn_and_gets_back_in(tmp_path: Path) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two)
    marker: Any = made.markers(one)[0]
    marker.down = {"a/ollama1"}
    assert set(made.served(one, ONE).at) == {"a/ollama1"}
    assert fits(made, one)
    assert not fits(made, two)
    made.back("a/ollama1", "10.0.0.1:3001")
    assert marker.down == set()


def test_what_a_run_left_out_counts_as_out(tmp_path: Path) -> None:
    one, two = gpu("a", (("m",),)), gpu("b", (("m",),))
    made = make(tmp_path, one, two)
    marker: Any = made.markers(one)[0]
    marker.down = {"a/ollama1"}
    with pytest.raises(Stopped, match="a/ollama1 is out of the upstream already"):
        fits(made, two)
    assert made.halted
    assert marker.down == {"a/ollama1"}


def test_what_lost_a_card_is_neither_taken_out_nor_waited_for(tmp_path: Path) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two)
    marker: Any = made.markers(one)[0]
    marker.down = {"a/ollama2"}
    made.lost.add("a/ollama2")
    assert set(made.served(one, EVERY).at) == {"a/ollama1"}
    assert fits(made, two)
    assert (made.halted, made.unfit) == ("", set())


def test_it_is_waited_for_while_its_host_is_worked_on(tmp_path: Path) -> None:
    one, two = gpu("a", (("m",),)), gpu("b", (("m",),))
    made = make(tmp_path, one, two)
    marker: Any = made.markers(one)[0]
    marker.down = {"a/ollama1"}
    made.context.begun.add("a")
    said: list[str] = []

    def pause(text: str) -> None:
        said.append(text)
        if len(said) == 2:
            assert fits(made, one)  # it is its turn meanwhile, and not kept from it
            made.back("a/ollama1", "10.0.0.1:3001")

    made.begin(made.served(two, ONE), pause)
    assert said == ["waiting: a/ollama1 is out of the upstream"] * 2
    assert made._out.keys() == {"b/ollama1"}


def test_hosts_that_would_wait_for_each_other_stop(tmp_path: Path) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two)
    marker: Any = made.markers(one)[0]
    marker.down = {"a/ollama2", "b/ollama2"}
    made.context.begun.update("ab")
    found: list[str] = []

    def roll(host: Host) -> None:
        try:
            made.begin(made.served(host, ONE), lambda _: None)
        except Stopped as error:
            found.append(str(error))

    threads = [threading.Thread(target=roll, args=(host,)) for host in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(found) == 2


@pytest.mark.parametrize(("said", "count", "allowed"), [(1, 3, False), (2, 3, True), (1, 1, True), ("50%", 4, True)])
def test_there_is_room_beside_what_is_down(tmp_path: Path, said: Any, count: int, allowed: bool) -> None:
    hosts = [gpu(name, (("m",),), max_unavailable=said) for name in "abcd"[:count]]
    made = make(tmp_path, *hosts)
    marker: Any = made.markers(hosts[0])[0]
    marker.down = {"b/ollama1"} & marker.members.keys()
    if allowed:
        assert fits(made, hosts[0])
    else:
        with pytest.raises(Stopped):
            fits(made, hosts[0])


def test_another_model_that_is_down_is_in_nobodys_way(tmp_path: Path) -> None:
    one, two = gpu("a", (("m",), ("n",))), gpu("b", (("m",),))
    made = make(tmp_path, one, two)
    marker: Any = made.markers(one)[0]
    marker.down = {"a/ollama2"}
    assert fits(made, two)


def test_what_is_drained_is_in_the_way_only_where_nobody_would_be_left(tmp_path: Path) -> None:
    hosts = [gpu(name, (("m",),)) for name in "abc"]
    made = make(tmp_path, *hosts)
    marker: Any = made.markers(hosts[0])[0]
    marker.drained = {"a/ollama1"}
    assert fits(made, hosts[1])
    made.drop("b/ollama1")
    marker.drained = {"a/ollama1", "c/ollama1"}
    with pytest.raises(Stopped, match=r"a/ollama1 \(drained\), c/ollama1 \(drained\) are out"):
        fits(made, hosts[1])


def test_a_balancer_that_dies_meanwhile_keeps_no_other_from_being_told(tmp_path: Path) -> None:
    one = gpu("a")
    made = make(tmp_path, one, balancers=3)
    served = made.served(one, ONE)
    made.begin(served, lambda _: None)
    made.drain(served, lambda _: None, lambda _: None)
    markers: list[Any] = made.markers(one)
    markers[0].unreachable = markers[1].unreachable = True
    turn = Turn(one, None, None, made, made.context, lambda *_: None)  # type: ignore[arg-type]
    turn.test, turn._out = lambda instance: "", {"a/ollama1": "ollama1"}  # type: ignore[method-assign]
    with pytest.raises(HostError, match="lb-0: lost") as found:
        turn.give_back()
    assert found.value.message == "a/ollama1 could not be given back: lb-0: lost", "it says what that costs"
    assert not isinstance(found.value, UnreachableError)  # the gpu host was reached
    assert [marker.down for marker in markers] == [{"a/ollama1"}, {"a/ollama1"}, set()]
    assert made.halted == "a/ollama1 could not be given back: lb-0: lost"
    assert made.unfit == set()
    assert made._out == {}


def test_what_is_cut_off_is_left_out_without_a_test(tmp_path: Path) -> None:
    one = gpu("a")
    made = make(tmp_path, one)
    made.begin(made.served(one, ONE), lambda _: None)
    turn = Turn(one, None, None, made, made.context, lambda *_: None)  # type: ignore[arg-type]
    turn._out = {"a/ollama1": "ollama1"}
    made.context.cut.set()
    turn.abandon()  # it has no connection, and asks for none
    assert made.unfit == {"a/ollama1"}
    assert made._out == {}


def test_every_balancers_lock_is_kept_while_an_instance_is_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "KEEP", 0.01)
    one = gpu("a")
    made = make(tmp_path, one, balancers=2)
    served = made.served(one, ONE)
    made.begin(served, lambda _: None)
    made.drain(served, lambda _: None, lambda _: None)
    markers: list[Any] = made.markers(one)
    assert all(marker.renewed.wait(5) for marker in markers)
    monkeypatch.setattr(budget, "KEEP", 5.0)
    made.finish()
    assert made._keeper is not None
    assert not made._keeper.is_alive()


def test_what_an_earlier_run_left_out_is_found_and_given_back(tmp_path: Path) -> None:
    one = gpu("a")
    made = make(tmp_path, one, balancers=3)
    markers: list[Any] = made.markers(one)
    markers[0].unreachable = True
    markers[1].down, markers[2].drained = {"a/ollama1"}, {"a/ollama2"}
    assert made.waiting([one]) == {"a/ollama1"}
    markers[0].unreachable = False
    made.readmit(one, "a/ollama1", "10.0.0.1:3001")
    assert markers[1].down == set()
    assert markers[2].drained == {"a/ollama2"}


@pytest.mark.parametrize("well", [True, False])
def test_what_a_killed_run_left_out_proves_itself_when_it_is_in_the_way(tmp_path: Path, well: bool) -> None:
    one, two = gpu("a"), gpu("b")
    made = make(tmp_path, one, two)
    marker: Any = made.markers(one)[0]
    marker.down = {"a/ollama2"}  # of the same host, and nothing of it is to be changed
    made.context.begun.update("ab")
    asked = []

    def prove(name: str) -> bool:
        asked.append(name)
        marker.down -= {name} if well else set()
        return well

    made.prove = prove
    if well:
        made.begin(made.served(one, ONE), lambda _: None)
    else:
        with pytest.raises(Stopped, match="a/ollama2 is out of the upstream already"):
            fits(made, one)
    assert asked == ["a/ollama2"]
