"""A planned switch of the common address, on fake balancers: the order of the commands, and every way out."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from provision import testing
from provision.actions.switching import Switching
from provision.artifacts.store import Store
from provision.command import Answer, Run
from provision.errors import HostError, RefusedError, UsageError
from provision.events import ignore
from provision.plan import role_interface
from provision.rollout.address_switch import AddressSwitch
from provision.rollout.held_address import HeldAddress
from provision.runs.context import Context, Stopped
from provision.steps.keepalived import handover

VIP = "10.0.0.100"
ADDRESSES = {"lb-01": "10.0.0.5", "lb-02": "10.0.0.6"}
THREE = {**ADDRESSES, "lb-03": "10.0.0.7"}
SAID = """# own
eth0 {own}/24
{held}# links
eth0 52:54:00:00:00:0{last}
# answers
{answers}
# peers
{peer} {peer} 52:54:00:00:00:0{other}
# end
"""


@dataclass
class Link:
    """The link of two balancers: who has the address, and what they did, in order.

    Args:
        holders: the balancers with the address.
        wrong: scripts that fail, each with the balancer.
        requests: the requests in progress of the holder, at each count.
        stop: set at the first count, if given.
        addresses: the balancers.
    """

    holders: set[str]
    wrong: frozenset[tuple[str, str]] = frozenset()
    requests: list[int] = field(default_factory=lambda: [0])
    stop: threading.Event | None = None
    done: list[tuple[str, str]] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=lambda: ADDRESSES)

    def answer(self, name: str, command: Run) -> Answer:
        script = command.script.removeprefix("keepalived/")
        if script == "read-address":
            return Answer(0, self._seen(name).encode())
        self.done.append((name, script))
        if (script, name) in self.wrong:
            return Answer(1, b"", f"{script} is wrong here".encode())
        if script == "count-requests":
            if self.stop:
                self.stop.set()
            return Answer(0, f"{self.requests.pop(0) if len(self.requests) > 1 else self.requests[0]}\n".encode())
        if script == "give-address":
            self.holders = {peer for peer in self.addresses if peer != name}
        if script == "wait-for-address":
            return Answer(0 if (name in self.holders) == ("yes" in command.words) else 1)
        return Answer(0)

    def _seen(self, name: str) -> str:
        other = next(each for each in self.addresses if each != name)
        return SAID.format(
            own=self.addresses[name],
            held=f"eth0 {VIP}/32\n" if name in self.holders else "",
            last=name[-1],
            answers="" if name in self.holders or not self.holders else f"52:54:00:00:00:0{other[-1]}",
            peer=self.addresses[other],
            other=other[-1],
        )

    def scripts(self, name: str) -> list[str]:
        return [script for each, script in self.done if each == name]


def context(folder: Path, link: Link, balancer: dict[str, Any] | None = None) -> Context:
    settings = {"vip": {"address": VIP}} if balancer is None else balancer
    gpu = {"gpu-01": {"ansible_host": "10.0.0.11", "ollama": {"instances": [{"gpus": [0]}]}}}
    hosts = {name: {"ansible_host": address} for name, address in link.addresses.items()}
    document = {
        "all": {
            "vars": {"nginx": {"accept_known_vulnerabilities": True}, "balancer": settings},
            "children": {"gpu": {"hosts": gpu}, "balancer": {"hosts": hosts}},
        }
    }
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump(document))
    names = {address: name for name, address in link.addresses.items()}

    def connect(connection: Any, become_password: str | None, paths: Any) -> testing.FakeHost:
        name = names.get(connection.address, "gpu-01")
        return testing.FakeHost(reply=lambda command: link.answer(name, command))

    return Context(
        "run-1",
        role_interface.load(str(path)),
        frozenset(),
        ignore,
        Store(folder / "store"),
        link.stop or threading.Event(),
        kind="switch",
        setup=testing.setup(folder, connect),
    )


def moved(folder: Path, link: Link, timeout: float = 0) -> Any:
    """Switch from the holder to the next balancer."""
    switch = AddressSwitch(context(folder, link))
    holder = switch.holder()
    return switch.move(holder, switch.next_of(holder), timeout, lambda text: None)


def test_new_connections_go_first_then_streams_end_and_the_address_follows(tmp_path):
    link = Link({"lb-01"}, requests=[2, 0])
    done = moved(tmp_path, link, timeout=60)
    assert (done.holder, done.to, done.cut) == ("lb-01", "lb-02", 0)
    assert link.scripts("lb-01") == [
        *("begin-handover", "count-requests", "count-requests", "give-address", "wait-for-address", "end-handover"),
    ]
    assert link.done.index(("lb-02", "wait-for-address")) > link.done.index(("lb-01", "give-address"))
    assert link.holders == {"lb-02"}


def test_requests_that_do_not_end_in_time_are_counted_and_cut(tmp_path):
    assert moved(tmp_path, Link({"lb-01"}, requests=[3])).cut == 3


@pytest.mark.parametrize(
    ("wrong", "last"),
    [
        (("begin-handover", "lb-01"), "take-back-connections"),
        (("count-requests", "lb-01"), "take-back-connections"),
        (("give-address", "lb-01"), "end-handover"),
        (("wait-for-address", "lb-02"), "end-handover"),
        (("wait-for-address", "lb-01"), "end-handover"),
    ],
    ids=str,
)
def test_a_failure_gives_new_connections_back_or_ends_a_handover_that_moved_the_address(tmp_path, wrong, last):
    link = Link({"lb-01"}, frozenset({wrong}))
    with pytest.raises(HostError):
        moved(tmp_path, link)
    assert link.scripts("lb-01")[-1] == last


def test_a_stop_while_streams_run_lets_the_next_balancer_finish_its_streams(tmp_path):
    link = Link({"lb-01"}, requests=[5], stop=threading.Event())
    with pytest.raises(Stopped):
        moved(tmp_path, link, timeout=60)
    assert link.scripts("lb-01") == ["begin-handover", "count-requests", "take-back-connections"]
    assert link.holders == {"lb-01"}


def test_a_next_balancer_that_dies_while_streams_run_ends_the_handover(tmp_path):
    link = Link({"lb-01"}, requests=[5])
    switch = AddressSwitch(context(tmp_path, link))
    holder = switch.holder()
    to = switch.next_of(holder)

    def dies(text: str) -> None:
        link.wrong = frozenset({("is-well", "lb-02")})

    with pytest.raises(HostError, match="lb-02 is not well any more: is-well is wrong here; lb-01 keeps"):
        switch.move(holder, to, 60, dies)
    assert link.scripts("lb-01")[-1] == "end-handover"
    assert link.holders == {"lb-01"}


@pytest.mark.parametrize(
    ("answer", "workers"), [("71 72 \n", (71, 72)), ("", ()), ("71 $(reboot)", ()), ("-1", ())], ids=repr
)
def test_only_numbers_of_processes_are_taken_from_the_holder(answer, workers):
    assert handover.workers(Answer(0, answer.encode())) == workers


def test_both_balancers_are_locked_while_the_address_moves(tmp_path):
    link = Link({"lb-01"})
    switch = AddressSwitch(context(tmp_path, link))
    seats = list(switch.seats().values())
    with switch.locked(*seats):
        assert all(switch.leases[name].held for name in ADDRESSES)
    assert not any(lease.held for lease in switch.leases.values())


def test_an_address_that_moves_before_the_lock_is_refused(tmp_path):
    link = Link({"lb-01"})
    switch = AddressSwitch(context(tmp_path, link))
    seats = list(switch.seats().values())
    link.holders = {"lb-02"}
    with pytest.raises(RefusedError, match="lb-01 does not have the address any more"), switch.locked(*seats):
        pytest.fail("a run began to move an address that is elsewhere")
    assert not any(lease.held for lease in switch.leases.values())


@pytest.mark.parametrize(
    ("holders", "said"), [(set(), f"nobody has {VIP}"), ({"lb-01", "lb-02"}, "lb-01 and lb-02 have")]
)
def test_nobody_or_two_with_the_address_are_refused_before_anything(tmp_path, holders, said):
    link = Link(set(holders))
    with pytest.raises(RefusedError, match=said):
        moved(tmp_path, link)
    assert link.done == []


def test_a_balancer_that_cannot_take_the_address_is_named_with_its_reason(tmp_path):
    link = Link({"lb-01"}, frozenset({("is-well", "lb-02")}))
    with pytest.raises(RefusedError, match=f"no other balancer can take {VIP}: lb-02: is-well is wrong here"):
        moved(tmp_path, link)
    assert link.scripts("lb-01") == []


def by_hand(folder: Path, link: Link, to: str = "", **settings: Any) -> Switching:
    return Switching(context(folder, link, **settings), None, to)


def test_a_switch_to_the_holder_changes_nothing(tmp_path):
    link = Link({"lb-01"})
    (outcome,) = by_hand(tmp_path, link, "lb-01").switch(0, force=True)
    assert (outcome.host, outcome.holds, outcome.changed) == ("lb-01", True, False)
    assert link.done == []


def test_a_switch_by_hand_tells_both_balancers(tmp_path):
    link = Link({"lb-02"}, requests=[1])
    outcomes = by_hand(tmp_path, link).switch(0, force=True)
    assert [(each.host, each.holds, each.cut, each.result) for each in outcomes] == [
        ("lb-01", True, 0, "changed"),
        ("lb-02", False, 1, "changed"),
    ]


def test_of_three_balancers_the_one_that_keepalived_would_not_choose_is_refused(tmp_path):
    link = Link({"lb-01"}, addresses=THREE)
    (outcome,) = by_hand(tmp_path, link, "lb-03").switch(0, force=True)
    assert "would give the address to lb-02, before lb-03 in the inventory" in str(outcome.error)
    assert link.scripts("lb-01") == []
    unwell = Link({"lb-01"}, frozenset({("is-well", "lb-02")}), addresses=THREE)
    outcomes = by_hand(tmp_path, unwell, "lb-03").switch(0, force=True)
    assert [(each.host, each.holds) for each in outcomes if each.changed] == [("lb-01", False), ("lb-03", True)]


@pytest.mark.parametrize(
    ("to", "settings", "said"),
    [("", {"balancer": {}}, "have no common address"), ("gpu-01", {}, "gpu-01 is no balancer of the address")],
)
def test_an_address_or_a_balancer_that_is_not_there_is_a_wrong_command(tmp_path, to, settings, said):
    with pytest.raises(UsageError, match=said):
        by_hand(tmp_path, Link({"lb-01"}), to, **settings)


def test_standbys_change_first_and_a_holder_without_another_keeps_the_address(tmp_path):
    link = Link({"lb-01"}, frozenset({("is-well", "lb-02")}))
    held = HeldAddress(context(tmp_path, link), None)
    said: list[str] = []
    hosts = [
        SimpleNamespace(name=name, run=SimpleNamespace(say=lambda *words: said.append(words[-1]))) for name in ADDRESSES
    ]
    assert [host.name for host in held.standby_first(hosts)] == ["lb-02", "lb-01"]
    change = SimpleNamespace(step=SimpleNamespace(gives_address_away=lambda have, want: True), have={}, want={})
    held.leave(hosts[0], [change])
    assert "the change is made while this balancer has the address" in said[0]
    assert link.holders == {"lb-01"}
    held.leave(hosts[1], [change])
    assert len(said) == 1, "a standby has nothing to give"
