"""The number of instances of a model that may be out of the upstream at once."""

from typing import Any

import pytest

from provision.errors import RefusedError
from provision.inventory import Host, Inventory
from provision.rollout.budget import DisruptionBudget, Renaming, are_out
from provision.rollout.members import Members, Slot
from provision.steps.nginx.upstream import Member

from .fake_roll import FakePool, balancer, gpu

LB = FakePool(balancer("lb-0"))


def budget(text: str, max_unavailable: Any = 1) -> DisruptionBudget:
    """Return the budget of an inventory.

    Args:
        text: hosts, each as `NAME: MODELS OF ITS INSTANCES`; `-` is an instance without a model, `m+n` has two models.
        max_unavailable: of every host.
    """
    hosts = []
    for line in text.split(", "):
        name, _, models = line.partition(": ")
        served = tuple(tuple(filter(None, word.removeprefix("-").split("+"))) for word in models.split())
        hosts.append(gpu(name, served, max_unavailable=max_unavailable))
    return DisruptionBudget(Inventory(path="", hosts=(*hosts, balancer("lb-0"))))


def hosts_of(made: DisruptionBudget) -> dict[str, Host]:
    return {host.name: host for host in made.replicas.inventory.hosts if host.gpu}


def slot(made: DisruptionBudget, labels: str, down: frozenset[str] = frozenset(), pool: Any = LB) -> Slot:
    """Return the slot of some instances of a host.

    Args:
        made: the budget.
        labels: the instances, with a blank in between; `a1` means a/ollama1.
        down: labels of the instances without requests.
        pool: the balancer of the instances.
    """
    names = named(labels)
    host = hosts_of(made)[names[0].partition("/")[0]]
    at = dict.fromkeys(names, "10.0.0.1:3001")
    return Slot(host, "step", at, (pool,), made.replicas.models(host, at), down & at.keys())


def named(labels: str) -> list[str]:
    """Return the labels of words: `a1` means a/ollama1, and a label stays a label."""
    return [word if "/" in word else f"{word[0]}/ollama{word[1:]}" for word in labels.split()]


def out(made: DisruptionBudget, *slots: str) -> dict[str, Slot]:
    """Return the taken slots, by label."""
    found = [slot(made, labels) for labels in slots]
    return {label: one for one in found for label in one.at}


@pytest.mark.parametrize(
    ("fleet", "allowed", "taken", "wanted", "fits"),
    [
        pytest.param("a: m m, b: m m", 1, [], "a1", True, id="nothing is out"),
        pytest.param("a: m m, b: m m", 1, ["a1"], "b1", False, id="one instance of a model at a time"),
        pytest.param("a: m m, b: m m", 2, ["a1"], "b1", True, id="two instances if two may be out"),
        pytest.param("a: m m, b: m m", 2, ["a1"], "b1 b2", False, id="three instances are too many"),
        pytest.param("a: m, b: n", 1, ["a1"], "b1", True, id="an instance of another model takes no slot"),
        pytest.param("a: m, b: m+n", 1, ["a1"], "b1", False, id="one shared model is enough"),
        pytest.param("a: m, b: n, c: m n", 1, ["a1"], "c2", True, id="the other model of a host with both"),
        pytest.param("a: -, b: -", 1, ["a1"], "b1", False, id="instances without a model are replicas"),
        pytest.param("a: -, b: m", 1, ["a1"], "b1", True, id="an instance without a model is no replica of a model"),
        pytest.param(
            "a: m m, b: m m", 1, ["a1"], "a2", True, id="earlier instances of the same host are back or removed"
        ),
        pytest.param("a: m m, b: m m", 1, [], "a1 a2", True, id="a whole host may go if nothing else is out"),
        pytest.param("a: m m, b: m m", 1, ["b1"], "a1 a2", False, id="a whole host may not go beside an instance"),
        pytest.param("a: m m, b: m m", 1, ["a1 a2"], "b1", False, id="an instance may not go beside a whole host"),
        pytest.param("a: m, b: n", 1, ["a/old"], "b1", True, id="a removed instance counts for the models of its host"),
        pytest.param(
            "a: m n, b: n", 1, ["a/old"], "b1", False, id="a removed instance counts for every model of its host"
        ),
    ],
)
def test_instances_go_out_if_enough_replicas_stay(
    fleet: str, allowed: Any, taken: list[str], wanted: str, fits: bool
) -> None:
    made = budget(fleet, allowed)
    assert made.fits(slot(made, wanted), out(made, *taken)) == fits


@pytest.mark.parametrize(("allowed", "count"), [(2, 2), ("50%", 2), ("25%", 1), ("1%", 1), ("100%", 4)])
def test_a_percentage_counts_all_replicas_and_allows_at_least_one(allowed: Any, count: int) -> None:
    made = budget("a: m, b: m, c: m, d: m", allowed)
    taken: list[str] = []
    for label in ("a1", "b1", "c1", "d1"):
        taken += [label] if made.fits(slot(made, label), out(made, *taken)) else []
    assert len(taken) == count


def test_instances_behind_other_balancers_are_no_replicas() -> None:
    """Without hosts in the group balancer, each gpu host balances for itself."""
    made = budget("a: m, b: m")
    members = Members()
    members.reserve(slot(made, "a1", pool=FakePool(hosts_of(made)["a"])))
    other = slot(made, "b1", pool=FakePool(hosts_of(made)["b"]))
    assert members.out(other.scope) == {}


def listed(labels: str, down: str = "", drained: str = "") -> dict[str, Member]:
    """Return the members of an upstream."""
    out, by_hand = set(named(down)) | set(named(drained)), set(named(drained))
    return {name: Member("10.0.0.1", 3001, name in out, name in by_hand) for name in named(labels)}


@pytest.mark.parametrize(
    ("fleet", "allowed", "wanted", "upstream", "blockers"),
    [
        pytest.param("a: m, b: m", 1, "b1", listed("a1 b1"), "", id="nothing is down"),
        pytest.param("a: m, b: m", 1, "b1", listed("a1 b1", "a1"), "a1", id="a member that is down counts as out"),
        pytest.param("a: m, b: m", 1, "a1", listed("a1 b1", "a1"), "", id="an instance never blocks itself"),
        pytest.param(
            "a: m, b: m", 1, "b1", listed("a1 b1", "a1 b1"), "", id="an instance without requests may always go"
        ),
        pytest.param("a: m, b: m, c: m", 2, "a1", listed("a1 b1 c1", "b1"), "", id="a second slot is free"),
        pytest.param(
            "a: m, b: m, c: m, d: m",
            "50%",
            "a1",
            listed("a1 b1 c1 d1", "b1"),
            "",
            id="a second slot by percentage is free",
        ),
        pytest.param(
            "a: m n, b: m", 1, "b1", listed("a1 a2 b1", "a2"), "", id="a member of another model blocks nothing"
        ),
        pytest.param("a: m m, b: m", 1, "a1", listed("a1 a2 b1", "a2"), "a2", id="members of the same host count"),
        pytest.param(
            "a: m, b: m, c: m", 1, "b1", listed("a1 b1 c1", "", "a1"), "", id="a drained member blocks nothing"
        ),
        pytest.param(
            "a: m, b: m, c: m",
            1,
            "b1",
            listed("a1 b1 c1", "", "a1 c1"),
            "a1 c1",
            id="a drained member blocks if no member would be left",
        ),
        pytest.param(
            "a: m, b: m, c: m",
            1,
            "b1",
            listed("a1 b1 c1", "a1", "c1"),
            "a1 c1",
            id="a drained member beside a member that is down",
        ),
        pytest.param(
            "a: m, b: m", 1, "b1", listed("a/old b1", "a/old"), "a/old", id="a removed member without a successor"
        ),
        pytest.param(
            "a: m, b: m",
            1,
            "b1",
            listed("a/old a1 b1", "a/old"),
            "",
            id="a removed member with a listed successor blocks nothing",
        ),
        pytest.param(
            "a: m, b: m", 1, "a1", listed("a/old a1 b1", "a/old"), "", id="a removed member never blocks its own host"
        ),
        pytest.param("a: m, b: m", 1, "b1", listed("b1"), "", id="an unlisted instance is not down"),
    ],
)
def test_members_that_are_down_use_up_the_budget(
    fleet: str, allowed: Any, wanted: str, upstream: dict[str, Member], blockers: str
) -> None:
    made = budget(fleet, allowed)
    down = frozenset(label for label, member in upstream.items() if member.down)
    assert sorted(made.blockers(slot(made, wanted, down), {}, upstream, ())) == named(blockers)


def test_a_member_that_is_down_and_has_a_slot_counts_once() -> None:
    made = budget("a: m, b: m, c: m", 2)
    taken = out(made, "a1")
    assert made.blockers(slot(made, "b1"), taken, listed("a1 b1 c1", "a1"), ()) == {}
    assert sorted(made.blockers(slot(made, "b1"), taken, listed("a1 b1 c1", "a1 c1"), ())) == ["c/ollama1"]


def test_nobody_waits_for_an_instance_that_lost_a_card() -> None:
    made = budget("a: m m, b: m m")
    upstream = listed("a1 a2 b1 b2", "a2")
    assert sorted(made.blockers(slot(made, "b1"), {}, upstream, ())) == ["a/ollama2"]
    assert made.blockers(slot(made, "b1"), {}, upstream, {"a/ollama2"}) == {}


@pytest.mark.parametrize(
    ("fleet", "allowed", "renamed", "refused"),
    [
        pytest.param("a: m, b: m", 1, {"a": 1}, "", id="as many as may be out"),
        pytest.param("a: m, b: m", 1, {"a": 1, "b": 1}, "a b", id="one more, on two hosts"),
        pytest.param("a: m m, b: m m", 1, {"a": 2}, "a", id="one more, on one host"),
        pytest.param("a: m m, b: m m", 2, {"a": 1, "b": 1}, "", id="two if two may be out"),
        pytest.param("a: m, b: n", 1, {"a": 1, "b": 1}, "", id="of different models"),
        pytest.param(
            "a: m, b: m n, c: n", 1, {"a": 1, "c": 1}, "", id="of different models that a third host serves both"
        ),
        pytest.param("a: -, b: -", 1, {"a": 1, "b": 1}, "a b", id="without a model"),
        pytest.param("a: m, b: m, c: m, d: m", "50%", {"a": 1, "b": 1}, "", id="as a share of all"),
        pytest.param(
            "a: m, b: m, c: n", 1, {"a": 1, "b": 1, "c": 1}, "a b", id="only hosts of the model with too many"
        ),
    ],
)
def test_renaming_more_instances_than_may_be_out_is_refused(
    fleet: str, allowed: Any, renamed: dict[str, int], refused: str
) -> None:
    made = budget(fleet, allowed)
    hosts = hosts_of(made)
    renamings = [Renaming(hosts[name], count) for name, count in renamed.items()]
    assert sorted(made.refuse_renaming(renamings)) == refused.split()


@pytest.mark.parametrize(
    ("fleet", "message"),
    [
        ("a: m, b: m", "this run would rename 2 instances of m, and ollama.max_unavailable allows 1 of them to be out"),
        ("a: -, b: -", "this run would rename 2 instances without a declared model, and ollama.max_unavail"),
    ],
)
def test_a_refusal_names_the_count_and_the_way_out(fleet: str, message: str) -> None:
    made = budget(fleet)
    refusal = made.refuse_renaming([Renaming(host, 1) for host in hosts_of(made).values()])["a"]
    assert isinstance(refusal, RefusedError)
    assert refusal.message.startswith(message)
    assert "use --limit" in refusal.hint


@pytest.mark.parametrize(("labels", "text"), [(["a/1"], "a/1 is"), (["a/1", "b/1"], "a/1, b/1 are")])
def test_the_verb_agrees_with_the_number_of_instances(labels: list[str], text: str) -> None:
    assert are_out(labels) == text


@pytest.mark.parametrize("other", ["gemma3:latest", "Gemma3", "registry.ollama.ai/library/gemma3"])
def test_a_model_counts_once_in_whatever_spelling_the_inventory_has_it(other: str) -> None:
    """Ollama takes a name without its tag and in any case; one of the two would look like the last of its model."""
    made = budget(f"a: gemma3, b: {other}", "50%")
    host = hosts_of(made)["a"]
    assert (made.replicas.count(host, "gemma3"), made.allowed(host, "gemma3")) == (2, 1)
    assert made.replicas.serving("gemma3", ["a/ollama1", "b/ollama1"]) == {"a/ollama1", "b/ollama1"}
    assert not made.fits(slot(made, "a1"), out(made, "b1"))


def test_the_budget_holds_for_each_model_and_not_for_the_fleet() -> None:
    """An instance of one model never waits for an instance of another; an instance of both waits for both."""
    made = budget("a: m, b: n, c: m+n")
    assert made.fits(slot(made, "a1"), out(made, "b1"))
    assert not made.fits(slot(made, "c1"), out(made, "b1"))
    assert not made.fits(slot(made, "c1"), out(made, "a1"))
