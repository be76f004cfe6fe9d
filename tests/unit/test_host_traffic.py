"""How one host's instances are taken out of the upstream, prove themselves, and get requests again."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from provision.errors import FactError, HostError, LockedError, RefusedError, UnreachableError
from provision.inventory import Host
from provision.rollout.balancer_pool import about_balancer
from provision.rollout.members import Membership, Slot
from provision.rollout.roll import Roll
from provision.rollout.traffic import HostTraffic
from provision.runs.context import Stopped
from provision.steps.base import EVERY
from provision.steps.nginx.upstream import Member

from .fake_roll import Said, gpu, pool_of, pools, roll, traffic

ONE = frozenset({"ollama1"})
A1, A2 = "a/ollama1", "a/ollama2"


def cordoned(made: HostTraffic, names: frozenset[str] = ONE) -> Slot:
    """The slot of instances that are out now."""
    slot = made.request(names, "step")
    assert slot is not None
    made.roll.members.reserve(slot)
    assert made.cordon(slot)
    return slot


@pytest.fixture
def host() -> Host:
    return gpu("a")


def test_every_balancer_cordons_and_uncordons_an_instance(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, balancers=2)
    own = traffic(made, host)
    slot = cordoned(own)
    assert [pool.down for pool in pools(made, host)] == [{A1}] * 2
    assert made.members.state(A1) is Membership.CORDONED
    own.drain(slot)
    own.uncordon(slot)
    assert [pool.down for pool in pools(made, host)] == [set()] * 2
    assert [pool.sent_to for pool in pools(made, host)] == [{A1: "10.0.0.1:3001"}] * 2, "where its Docker has it"
    assert made.members.state(A1) is Membership.IN
    assert made.members.out(slot.scope) == {}


def test_an_instance_in_no_upstream_or_drained_needs_no_slot(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own, pool = traffic(made, host), pool_of(made)
    pool.drained = {A1}
    assert own.request(ONE, "step") is None
    pool.drained, pool.nowhere = set(), {A1}
    assert own.request(ONE, "step") is None, "its address is not known yet"
    pool.listed = {}
    assert own.request(EVERY, "step") is None


def test_a_slot_for_a_whole_host_has_every_listed_instance(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, gpu("ab"))
    own, pool = traffic(made, host), pool_of(made)
    pool.listed |= {"a/old": 3009}
    pool.drained = {A2}
    slot = own.request(EVERY, "step")
    assert slot is not None
    assert sorted(slot.at) == ["a/old", A1]
    assert sorted(slot.instances) == ["old", "ollama1"]


def test_an_instance_left_out_by_an_earlier_run_takes_a_slot_and_is_admitted(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own, pool = traffic(made, host), pool_of(made)
    pool.down = {A1}
    slot = cordoned(own)
    assert slot.down == {A1}
    own.uncordon(slot)
    assert pool.down == set()


def test_an_unreadable_balancer_forbids_a_slot(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, balancers=2)
    pools(made, host)[1].unreachable = True
    with pytest.raises(RefusedError, match="lb-1 cannot be reached, and may send to the instances of a"):
        traffic(made, host).request(ONE, "step")


def test_an_instance_with_a_lost_card_is_not_cordoned(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host)
    own.lost_cards(["ollama2"])
    slot = own.request(EVERY, "step")
    assert slot is not None
    assert set(slot.at) == {A1}
    own.lost_cards([])
    again = own.request(EVERY, "step")
    assert again is not None
    assert set(again.at) == {A1, A2}, "by the latest plan it has its card again"


def test_a_slot_blocked_by_a_down_instance_names_the_instance_and_is_released(tmp_path: Path) -> None:
    one, two = gpu("a", (("m",),)), gpu("b", (("m",),))
    made = roll(tmp_path, one, two)
    pool_of(made).down = {A1}
    own = traffic(made, two)
    slot = own.request(ONE, "step")
    assert slot is not None
    made.members.reserve(slot)
    assert not own.cordon(slot)
    assert slot.blockers == (A1,)
    assert made.members.out(slot.scope) == {}
    assert pool_of(made).down == {A1}, "no balancer was told anything"
    pool_of(made).down = set()
    pool_of(made).drained = {A1}
    assert not own.cordon(slot)
    assert slot.blockers == (f"{A1} (drained)",)


def test_after_a_locked_balancer_the_cordoned_instances_are_abandoned(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, balancers=2)
    first, second = pools(made, host)
    second.taken = True
    own = traffic(made, host)
    slot = own.request(ONE, "step")
    assert slot is not None
    made.members.reserve(slot)
    with pytest.raises(LockedError):
        own.cordon(slot)
    assert first.down == {A1}
    second.taken = False
    own.abandon(slot)
    assert first.down == set()
    assert made.members.out(slot.scope) == {}


@pytest.mark.parametrize(
    ("timeout", "streams", "told"),
    [
        ("10m", [(2, True), (1, True), (0, True)], []),
        ("10m", [(2, True), (1, False)], ["1 stream through lb-0 is cut (the balancer does not answer any more)"]),
        ("0s", [(3, True)], ["3 streams through lb-0 are cut (after 0 s)"]),
    ],
    ids=["they end", "a dead instance ends none", "they take too long"],
)
def test_a_drain_waits_for_streams_and_reports_the_streams_it_cuts(
    tmp_path: Path, timeout: str, streams: list[tuple[int, bool]], told: list[str]
) -> None:
    host = gpu("a", drain_timeout=timeout)
    made, said = roll(tmp_path, host), Said()
    own, pool = traffic(made, host, say=said), pool_of(made)
    slot = cordoned(own)
    pool.streams = list(streams)
    own.drain(slot)
    cut = [text.removeprefix("waiting no longer: ") for text in said.texts if text.startswith("waiting no longer")]
    assert cut == told
    waited = [count for count, answers in streams if count and answers and timeout != "0s"]
    assert [int(text.split()[1]) for text in said.texts if text.startswith("waiting: ")] == waited
    assert pool.awaited == [["10.0.0.1:3001"]]


def test_a_balancer_lost_during_the_wait_for_streams_makes_no_gpu_host_unreachable(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host)
    slot = cordoned(own)
    pool_of(made).lost_while_waiting = True
    with pytest.raises(HostError, match="lb-0: lost") as error:
        own.drain(slot)
    assert not isinstance(error.value, UnreachableError)


def test_a_stopping_run_cordons_nothing_and_waits_for_no_stream(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own, pool = traffic(made, host), pool_of(made)
    slot = cordoned(own)
    pool.streams = [(3, True)] * 9
    made.context.stop.set()
    with pytest.raises(Stopped, match="stopped before step"):
        own.drain(slot)
    own.abandon(slot)
    assert pool.down == set(), "nothing was changed: it proves itself and gets its requests back"
    with pytest.raises(Stopped):
        own.cordon(slot)
    assert pool.down == set()


def test_an_ill_instance_stays_out_and_halts_the_roll_while_healthy_instances_are_admitted(
    tmp_path: Path, host: Host
) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host, ill=["ollama1"])
    slot = cordoned(own, EVERY)
    with pytest.raises(
        HostError, match="a/ollama1 is not fit to serve and stays out of the upstream: ollama1 does not"
    ):
        own.uncordon(slot)
    assert pool_of(made).down == {A1}
    assert made.members.labels(Membership.NOT_READY) == {A1}
    assert made.members.halted.startswith("a/ollama1 is not fit to serve")
    assert made.members.out(slot.scope) == {}


def test_a_dead_balancer_does_not_keep_other_balancers_from_an_uncordon(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, balancers=3)
    own = traffic(made, host)
    slot = cordoned(own)
    first, second, third = pools(made, host)
    first.unreachable = second.unreachable = True
    with pytest.raises(HostError, match="lb-0: lost") as error:
        own.uncordon(slot)
    assert error.value.message == "a/ollama1 could not be admitted: lb-0: lost", "it says what that costs"
    assert not isinstance(error.value, UnreachableError), "the gpu host was reached"
    assert [pool.down for pool in (first, second, third)] == [{A1}, {A1}, set()]
    assert made.members.halted == "a/ollama1 could not be admitted: lb-0: lost"
    assert made.members.labels(Membership.NOT_READY) == frozenset()
    assert made.members.out(slot.scope) == {}


def test_after_an_error_healthy_instances_are_admitted_and_no_second_error_is_raised(
    tmp_path: Path, host: Host
) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host, ill=["ollama2"])
    slot = cordoned(own, EVERY)
    own.abandon(slot)
    assert pool_of(made).down == {A2}
    assert made.members.halted.startswith("a/ollama2 is not fit to serve")
    assert made.members.out(slot.scope) == {}


def test_after_the_second_ctrl_c_instances_stay_out_without_a_test(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    slot = cordoned(own)
    made.context.cut.set()
    own.abandon(slot)
    assert own.admission.session.ran == [], "there is no connection any more"
    assert made.members.labels(Membership.NOT_READY) == {A1}
    assert made.members.halted == "a/ollama1 was left out of the upstream"
    assert made.members.out(slot.scope) == {}


def test_an_instance_that_never_went_out_is_not_tested_after_an_error(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    slot = own.request(ONE, "step")
    made.members.reserve(slot)
    own.abandon(slot)
    own.abandon(None)
    assert own.admission.session.proved == []
    assert made.members.out(slot.scope) == {}


def removed(tmp_path: Path, listed: dict[str, int], **more: Any) -> tuple[Roll, HostTraffic, Slot]:
    """A host whose balancer knew `old`, which is not declared any more and has gone out."""
    host = gpu("a", (("m",),))
    made = roll(tmp_path, host, gpu("b", (("m",),)), **more)
    own = traffic(made, host)
    pool_of(made).listed = {**listed, "a/old": 3009, "b/ollama1": 3001}
    return made, own, cordoned(own, frozenset({"old"}))


def test_a_removed_instance_keeps_its_slot_until_the_balancers_list_the_successor(tmp_path: Path) -> None:
    made, own, slot = removed(tmp_path, {})
    own.uncordon(slot)
    assert made.members.labels(Membership.REMOVED) == {"a/old"}
    assert made.members.out(slot.scope).keys() == {"a/old"}
    assert pool_of(made).down == {"a/old"}
    assert made.members.halted == ""


def test_a_removed_instance_without_a_successor_blocks_no_slot(tmp_path: Path) -> None:
    """An operator wants fewer instances."""
    made, own, slot = removed(tmp_path, {A1: 3001})
    own.uncordon(slot)
    assert made.members.out(slot.scope) == {}
    assert pool_of(made).down == {"a/old"}
    assert made.members.halted == ""


def test_after_a_failed_removal_no_instance_is_cordoned(tmp_path: Path) -> None:
    made, own, slot = removed(tmp_path, {})
    own.abandon(slot)
    assert made.members.halted == "a/old is gone, and nothing took its place"
    assert made.members.labels(Membership.NOT_READY) == {"a/old"}


def test_a_run_that_removes_nothing_uncordons_its_instances(tmp_path: Path) -> None:
    """Such as `-t docker`, after the names in the inventory were changed."""
    made, own, slot = removed(tmp_path, {}, roles=frozenset({"docker"}))
    own.uncordon(slot)
    assert pool_of(made).down == set()


def test_a_removed_instance_is_cordoned_once(tmp_path: Path) -> None:
    """Its room stays taken also where the host has no room for the rest of its instances."""
    made, own, slot = removed(tmp_path, {})
    own.uncordon(slot)
    assert own.request(EVERY, "step") is None
    assert made.members.out(slot.scope).keys() == {"a/old"}


def test_a_dead_balancer_keeps_no_instance_from_its_test_beside_a_removed_instance(tmp_path: Path) -> None:
    made, own, slot = removed(tmp_path, {A1: 3001}, balancers=1)
    own.uncordon(slot)
    pool = pool_of(made)
    pool.listed |= {"a/older": 3008}
    both = cordoned(own, frozenset({"older", "ollama1"}))
    pool.unreachable = True
    with pytest.raises(HostError) as error:
        own.uncordon(both)
    assert error.value.message == "a/ollama1 could not be admitted: lb-0: lost"
    assert made.members.labels(Membership.CORDONED) == frozenset(), "whatever became of it, its part is over"
    assert made.members.out(both.scope).keys() <= {"a/older"}


def test_a_new_instance_is_held_and_admitted_after_its_test(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, balancers=3)
    here, dead, knows_none = pools(made, host)
    dead.unreachable, knows_none.listed = True, {}
    own = traffic(made, host)
    assert own.hold("ollama1")
    assert (here.down, knows_none.down) == ({A1}, set())
    assert made.members.state(A1) is Membership.NEW
    dead.unreachable = False
    own.finish()
    assert here.down == set()
    assert made.members.state(A1) is Membership.IN


def test_an_ill_new_instance_stays_out_and_halts_the_roll(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host, ill=["ollama1"])
    own.hold("ollama1")
    with pytest.raises(HostError, match="does not answer"):
        own.finish()
    assert (pool_of(made).down, made.members.labels(Membership.NOT_READY)) == ({A1}, {A1})
    assert "does not answer" in made.members.halted


def test_a_stopping_run_still_tests_new_instances(tmp_path: Path, host: Host) -> None:
    """All of the host was changed, and nobody else would tell that one of its instances gets no requests."""
    made = roll(tmp_path, host)
    own = traffic(made, host)
    own.hold("ollama1")
    made.context.stop.set()
    own.finish()
    assert pool_of(made).down == set()


def test_an_ill_new_instance_does_not_keep_healthy_new_instances_out(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host, ill=["ollama1"])
    own.hold("ollama1")
    own.hold("ollama2")
    with pytest.raises(HostError, match="a/ollama1 is not fit"):
        own.finish()
    assert pool_of(made).down == {A1}


def test_an_instance_is_not_made_if_a_sending_balancer_cannot_be_told(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, balancers=2)
    first, second = pools(made, host)
    first.taken = True
    with pytest.raises(LockedError, match="somebody"):
        traffic(made, host).hold("ollama1")
    assert second.down == {A1}


def test_every_balancer_is_asked_once_for_its_members_even_a_dead_balancer(tmp_path: Path) -> None:
    hosts = [gpu(name) for name in "abcd"]
    made = roll(tmp_path, *hosts)
    pool_of(made).unreachable = True
    assert [traffic(made, host).hold("ollama1") for host in hosts] == [False] * 4
    assert pool_of(made).looks == 1


def test_an_undeclared_instance_restored_by_a_rollback_stays_out(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    pool_of(made).listed["a/gone"] = 3009
    own = traffic(made, host)
    own.hold("gone")
    own.finish()
    assert pool_of(made).down == {"a/gone"}


def test_an_unreachable_balancer_does_not_keep_other_balancers_from_a_new_instance(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, balancers=2)
    first, second = pools(made, host)
    own = traffic(made, host)
    own.hold("ollama1")
    first.unreachable = True
    with pytest.raises(HostError, match="lost"):
        own.finish()
    assert second.down == set()


def test_a_missing_instance_is_tested_after_it_is_made_again(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    slot = cordoned(own, EVERY)
    own.missing("ollama1")
    own.uncordon(slot)
    assert own.admission.session.proved == ["ollama2"]
    assert pool_of(made).down == {A1}
    own.finish()
    assert own.admission.session.proved == ["ollama2", "ollama1"]
    assert pool_of(made).down == set()


def test_a_blocking_instance_of_another_host_is_left_to_that_host(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host, gpu("b"))
    own: Any = traffic(made, host)
    pool_of(made).down = {"b/ollama1"}
    slot = own.request(ONE, "step")
    made.members.reserve(slot)
    assert not own.cordon(slot)
    assert own.admission.session.proved == []


DOWN = Member("10.0.0.1", 3001, down=True)


@pytest.mark.parametrize(
    ("member", "changing", "proved"),
    [
        (DOWN, frozenset(), ["ollama1"]),
        (DOWN, frozenset({"ollama2"}), ["ollama1"]),
        (DOWN, ONE, []),
        (DOWN, EVERY, []),
        (Member("10.0.0.1", 3001, down=False), frozenset(), []),
        (Member("10.0.0.1", 3001, down=True, drained=True), frozenset(), []),
        (Member("192.0.2.1", 3001, down=True), frozenset(), []),
    ],
    ids=["left out", "another is changed", "is changed", "all are", "gets requests", "drained", "never had an address"],
)
def test_an_instance_left_out_earlier_is_tested_unless_this_run_changes_it(
    tmp_path: Path, host: Host, member: Member, changing: frozenset[str], proved: list[str]
) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    pool_of(made).down = {A1} if member.down else set()
    own.left_out.recover({A1: member}, changing)
    assert own.admission.session.proved == proved
    assert (A1 in pool_of(made).down) == (member.down and not proved)


def test_an_instance_left_out_earlier_and_changed_now_is_tested_at_the_end(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    pool_of(made).down = {A1}
    own.left_out.recover({A1: DOWN}, ONE)
    assert own.admission.session.proved == []
    own.finish()
    assert own.admission.session.proved == ["ollama1"]
    assert pool_of(made).down == set()


def test_an_instance_is_tested_once(tmp_path: Path, host: Host) -> None:
    """What was read of the balancers at the start is old by now."""
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    pool_of(made).down = {A1}
    for _ in range(2):
        own.left_out.recover({A1: DOWN}, frozenset())
    own.finish()
    assert own.admission.session.proved == ["ollama1"]


def test_an_ill_instance_left_out_earlier_halts_nothing_and_is_reported_at_the_end(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host, ill=["ollama1"])
    pool_of(made).down = {A1, A2}
    own.left_out.recover({A1: DOWN, A2: DOWN}, frozenset())
    assert (pool_of(made).down, made.members.halted) == ({A1}, "")
    own.finish()
    assert own.admission.session.proved == ["ollama1", "ollama2"]
    assert "a/ollama1 is not fit to serve" in str(own.left_out.error)


@pytest.mark.parametrize("groups", [("gpu",), ("gpu", "balancer")])
def test_a_host_is_locked_while_its_instances_are_recovered(
    tmp_path: Path, host: Host, groups: tuple[str, ...]
) -> None:
    """A balancer stays locked: the run may just tell it of other hosts' instances."""
    made = roll(tmp_path, host)
    own: Any = traffic(made, dataclasses.replace(host, groups=groups))
    own.left_out.recover({A1: DOWN}, frozenset())
    assert own.admission.session.ran[0] == "lock"
    assert own.admission.lease.held == ("balancer" in groups)


def test_an_instance_under_work_by_another_run_is_left_alone(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    pool_of(made).down = {A1}
    own.admission.lease.taken = True
    own.left_out.recover({A1: DOWN}, frozenset())
    assert (pool_of(made).down, made.members.state(A1), made.members.halted) == ({A1}, None, "")
    assert isinstance(own.left_out.error, LockedError)
    own.admission.lease.taken = False
    own.left_out.recover({A1: DOWN}, frozenset())
    assert (pool_of(made).down, own.left_out.error) == (set(), None)


@pytest.mark.parametrize("how", ["left out", "made"])
@pytest.mark.parametrize("ill", [False, True])
def test_a_healthy_own_instance_is_admitted_before_another_instance_goes_out(
    tmp_path: Path, host: Host, how: str, ill: bool
) -> None:
    """Its host waits for nobody else: it would wait for ever."""
    made = roll(tmp_path, host)
    own: Any = traffic(made, host, ill=["ollama1"] if ill else [])
    if how == "made":
        assert own.hold("ollama1")
    else:
        pool_of(made).down = {A1}
        own.left_out.recover({A1: DOWN}, ONE)
    slot = own.request(frozenset({"ollama2"}), "container:ollama2")
    made.members.reserve(slot)
    assert own.cordon(slot) is not ill
    assert pool_of(made).down == ({A1} if ill else {A2})
    assert made.members.halted == ""
    if ill:
        assert not own.cordon(slot)
    assert own.admission.session.proved == ["ollama1"], "once for one step"


def test_two_hosts_that_block_each_other_admit_their_instances_first(tmp_path: Path) -> None:
    """A run that was cut left one of each out: each slot holds its own, and is blocked by that of the other host."""
    hosts = [gpu(name, max_unavailable=2) for name in "ab"]
    made = roll(tmp_path, *hosts)
    pool_of(made).down = {A1, "b/ollama1"}
    own: list[Any] = [traffic(made, one) for one in hosts]
    for one in own:
        one.left_out.recover({A1: DOWN, "b/ollama1": DOWN}, EVERY)
        slot = one.request(EVERY, "docker_config:daemon.json")
        made.members.reserve(slot)
        if one.cordon(slot):
            one.uncordon(slot)
    assert pool_of(made).down == set()


@pytest.mark.parametrize("ill", [False, True])
def test_an_instance_changed_after_other_hosts_is_tested_early(tmp_path: Path, host: Host, ill: bool) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host, ill=["ollama1"] if ill else [])
    pool_of(made).down = {A1}
    own.left_out.recover({A1: DOWN}, ONE, early=True)
    assert own.admission.session.proved == ["ollama1"]
    assert (pool_of(made).down, own.left_out.error) == ({A1} if ill else set(), None)
    own.admission.session.ill.clear()
    own.finish()
    assert own.admission.session.proved == ["ollama1"] * (2 if ill else 1)
    assert pool_of(made).down == set()


@pytest.mark.parametrize("how", ["stop", "lost a card"])
def test_an_instance_left_out_earlier_stays_out(tmp_path: Path, host: Host, how: str) -> None:
    made = roll(tmp_path, host)
    own: Any = traffic(made, host)
    pool_of(made).down = {A1}
    if how == "stop":
        made.context.stop.set()
    else:
        own.lost_cards(["ollama1"])
    own.left_out.recover({A1: DOWN}, frozenset())
    own.finish()
    assert (own.admission.session.proved, pool_of(made).down) == ([], {A1})


def test_a_failed_test_names_the_host_and_keeps_the_evidence(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    with pytest.raises(HostError) as error:
        traffic(made, host, ill=["ollama1"]).admission.prove("ollama1")
    assert error.value.step == "test:ollama1"
    assert error.value.stderr == "ollama1 does not answer"
    assert "deploy again" in error.value.hint


@pytest.mark.parametrize("error", [UnreachableError("lost"), FactError("not to be read")])
def test_an_unreadable_balancer_is_no_unreadable_gpu_host(tmp_path: Path, host: Host, error: Any) -> None:
    made = roll(tmp_path, host)
    with pytest.raises(HostError) as raised, about_balancer(made.context):
        raise error
    assert type(raised.value) is HostError


def proved(own: HostTraffic) -> list[str]:
    """Return the names of the tested instances, in order."""
    session: Any = own.admission.session
    return session.proved


def test_an_instance_that_this_run_admitted_is_not_tested_again(tmp_path: Path, host: Host) -> None:
    own = traffic(roll(tmp_path, host), host)
    own.uncordon(cordoned(own))
    assert not own.prove("ollama1", "previous:ollama1")
    assert proved(own) == ["ollama1"]


def test_a_serving_instance_is_tested_before_its_previous_container_goes(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host, ill=["ollama2"])
    assert own.prove("ollama1", "previous:ollama1")
    with pytest.raises(HostError, match="a/ollama2 is not fit to serve and keeps its previous container: ollama2 does"):
        own.prove("ollama2", "previous:ollama2")
    assert made.members.halted == ""
    assert pool_of(made).down == set(), "it serves as before"


def test_a_new_instance_is_admitted_before_its_previous_container_goes(tmp_path: Path, host: Host) -> None:
    made = roll(tmp_path, host)
    own = traffic(made, host)
    own.hold("ollama1")
    assert own.prove("ollama1", "previous:ollama1")
    assert (made.members.state(A1), pool_of(made).down) == (Membership.IN, set())
    own.finish()
    assert proved(own) == ["ollama1"], "once"


def test_an_instance_that_is_not_declared_has_no_test(tmp_path: Path, host: Host) -> None:
    own = traffic(roll(tmp_path, host), host)
    assert not own.prove("old", "previous:old")
    assert proved(own) == []
