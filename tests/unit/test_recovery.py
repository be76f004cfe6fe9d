"""Instances that earlier runs left out are tested and admitted before the run changes other instances."""

import threading
from types import SimpleNamespace

import pytest

from provision import testing
from provision.artifacts.store import Store
from provision.errors import CommandError, LockedError
from provision.events import ignore
from provision.inventory import Connection, Host, Instance, Inventory
from provision.plan.planner import HostPlan
from provision.plan.role_interface import Entry
from provision.rollout import recovery
from provision.rollout.budget import DisruptionBudget
from provision.rollout.members import Members, Membership
from provision.rollout.outcome import Pace
from provision.rollout.roll import Roll
from provision.rollout.waves import Rollout
from provision.runs.context import Context
from provision.steps.nginx import upstream
from provision.steps.nginx.upstream import Member
from tests.shell import sh

from .ctrl_c import pressed
from .local import SETTINGS
from .test_host_run import Note, Upstream


class Part(Note):
    """A note that is part of the instance `ollama1`, and does not disrupt the instance."""

    @property
    def part_of(self):
        return "ollama1"


class Pool:
    """A balancer without a host."""

    def __init__(self, name, down, events):
        self.host, self.touched, self.locked = SimpleNamespace(name=name), False, False
        self.listed = {
            key: Member("10.0.0.1", 3001, down=True, drained=word == "drained") for key, word in down.items()
        }
        self.events = events
        self.context = None
        self.looks = 0

    def members(self):
        self.looks += 1
        return dict(self.listed)

    def update(self, *, up):
        self.events += [f"up {key}" for key in up]


class Pools:
    """The pool of a balancer that sends to all hosts."""

    def __init__(self, pool):
        self.pool, self.known = pool, ()

    def of(self, host):
        return [self.pool]

    def sending_to(self, host, key):
        return []

    def first_members(self, pool):
        return pool.members()

    def finish(self):
        """Do nothing: no connection is open."""

    close = finish


@pytest.fixture
def make(tmp_path):
    """A function that makes a Rollout over gpu hosts and a balancer of the run; every host is a folder of the test."""
    setup = testing.setup(tmp_path, steps=lambda host, inventory: host.variables["entries"], owned=())
    events = []

    def build(hosts, down, *, ill=(), pace=None, roles=("ollama",), step=Note, forks=4, role="ollama", upstreams=None):
        made = []
        for name, text in hosts.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "a").write_text(text)
            how = (sh('echo "change $2" >>"$1/log"; printf wanted >"$1/a"', str(tmp_path / name), name, title="write"),)
            entries = (Entry(role, step(str(tmp_path / name / "a"), how=how)),)
            if name in (upstreams or {}):
                entries += (Entry("balancer", Upstream(upstreams[name])),)
            instances = tuple(Instance(host=name, name=f"ollama{n}", gpus=(n,), port=3000 + n) for n in (1, 2))
            groups = ("gpu",) if name.startswith("gpu") else ("balancer",)
            connection, variables = Connection(address=name), {"entries": entries}
            made.append(
                Host(
                    name=name,
                    groups=groups,
                    settings=SETTINGS,
                    connection=connection,
                    variables=variables,
                    instances=instances if "gpu" in groups else (),
                )
            )
        inventory = Inventory(path="", hosts=tuple(made))
        context = Context("run-1", inventory, frozenset(roles), ignore, Store(tmp_path / "store"), setup=setup)
        pool = Pool("lb-01", down, events)
        roll = Roll(context, Pools(pool), Members(), DisruptionBudget(inventory))
        rollout = Rollout(context, [(host, context.roles) for host in made], None, forks, pace or Pace(), roll=roll)
        for part in rollout.members:
            part.traffic.admission.prove = prove(part.name, ill)
            part.run.deploy = noting(part.name, part.run.deploy)
        rollout.pool = pool
        return rollout

    def prove(host, ill):
        def work(name, *, lock=False):
            events.append(f"prove {host}/{name}")
            if f"{host}/{name}" in ill:
                raise CommandError(f"{host}/{name} does not answer")
            return "10.0.0.1:3001"

        return work

    def noting(host, deploy):
        def work(*args):
            events.append(f"deploy {host}")
            yield from deploy(*args)

        return work

    build.events = events
    return build


OUT = {"gpu-01/ollama1": "", "gpu-01/ollama2": ""}


def result(rollout):
    return {outcome.host: outcome.result for outcome in rollout.deploy()}


def test_an_instance_left_out_earlier_is_admitted_before_any_change(make):
    rollout = make({"gpu-01": "wanted", "gpu-02": "old", "lb-01": "wanted"}, {"gpu-01/ollama2": ""})
    assert result(rollout) == {"gpu-01": "ok", "gpu-02": "changed", "lb-01": "ok"}
    assert make.events[:2] == ["prove gpu-01/ollama2", "up gpu-01/ollama2"]
    assert make.events.count("prove gpu-01/ollama2") == 1


def test_a_drained_instance_stays_out(make):
    rollout = make({"gpu-01": "wanted"}, {"gpu-01/ollama2": "drained"})
    assert result(rollout) == {"gpu-01": "ok"}
    assert make.events == ["deploy gpu-01"]


@pytest.mark.parametrize(("roles", "asked"), [(("ollama",), True), (("models",), True), (("docker",), False)])
def test_a_run_without_a_last_wave_asks_the_balancers_if_its_roles_serve_instances(make, roles, asked):
    rollout = make({"gpu-01": "wanted", "lb-01": "wanted"}, OUT, roles=roles)
    rollout.deploy()
    assert bool(rollout.pool.looks) is asked
    assert ("up gpu-01/ollama1" in make.events) is asked


def test_an_instance_changed_by_this_run_is_tested_at_the_end_of_its_host(make):
    rollout = make({"gpu-01": "old"}, OUT, step=Part)
    assert result(rollout) == {"gpu-01": "changed"}
    assert make.events == [
        "prove gpu-01/ollama2",
        "up gpu-01/ollama2",
        "deploy gpu-01",
        "prove gpu-01/ollama1",
        "up gpu-01/ollama1",
    ]


@pytest.mark.parametrize("pace", [Pace(serial=1), Pace(canary=True)])
@pytest.mark.parametrize("ill", [False, True])
def test_an_instance_of_a_later_batch_is_tested_before_the_first_batch_changes(make, pace, ill):
    """The rule also holds for an instance that this run changes: the first batch would wait in vain."""
    down = {"gpu-02/ollama1": ""}
    rollout = make({"gpu-01": "old", "gpu-02": "old"}, down, ill=down if ill else (), pace=pace, step=Part)
    results = result(rollout)
    assert make.events[0] == "prove gpu-02/ollama1"
    assert make.events.index("prove gpu-02/ollama1") < make.events.index("deploy gpu-01")
    assert ("up gpu-02/ollama1" in make.events) is not ill
    assert make.events.count("prove gpu-02/ollama1") == (2 if ill else 1), "a changed instance is tested again"
    assert results == {"gpu-01": "changed", "gpu-02": "failed" if ill else "changed"}


def test_hosts_that_wait_for_a_thread_count_as_later(make):
    rollout = make({"gpu-01": "old", "gpu-02": "old"}, {"gpu-02/ollama1": ""}, step=Part, forks=1)
    rollout.deploy()
    assert make.events[:2] == ["prove gpu-02/ollama1", "up gpu-02/ollama1"]


def test_a_failed_test_keeps_no_other_instance_out_and_fails_the_host_after_the_first_wave(make):
    rollout = make(
        {"gpu-01": "wanted", "gpu-02": "old"}, OUT, ill={"gpu-01/ollama1"}, pace=Pace(canary=True, max_fail=0)
    )
    outcomes = rollout.deploy()
    assert [outcome.result for outcome in outcomes] == ["failed", "changed"]
    assert outcomes[0].error.message == "gpu-01/ollama1 does not answer"
    assert [event for event in make.events if event.startswith("up")] == ["up gpu-01/ollama2"]
    assert not rollout.roll.members.halted
    assert rollout.fleet().not_ready == {"gpu-01/ollama1"}


def test_a_healthy_instance_of_a_failed_host_is_admitted(make):
    rollout = make({"gpu-01": "old"}, {"gpu-01/ollama1": ""}, step=Part)

    def fails(*args):
        rollout.members[0].run.plans.append(HostPlan())
        yield from ()
        raise CommandError("no such model")

    rollout.members[0].run.deploy = fails
    (outcome,) = rollout.deploy()
    assert outcome.error.message == "no such model"
    assert make.events == ["prove gpu-01/ollama1", "up gpu-01/ollama1"]


def test_an_instance_locked_by_another_run_is_left_alone(make):
    rollout = make({"gpu-01": "wanted"}, {"gpu-01/ollama1": ""})

    def locked(name, *, lock=False):
        raise LockedError("gpu-01 is locked by run-0")

    rollout.members[0].traffic.admission.prove = locked
    assert result(rollout) == {"gpu-01": "locked"}
    assert "up gpu-01/ollama1" not in make.events
    assert not rollout.fleet().not_ready, "the marks of the host are kept"


@pytest.mark.parametrize("step", [1, 2])
def test_ctrl_c_during_recovery_stops_after_the_instance_under_test(make, step):
    rollout = make({"gpu-01": "old", "gpu-02": "old"}, OUT)
    begun = threading.Event()
    (first, _) = rollout.members
    prove = first.traffic.admission.prove
    tested = []

    def waiting(name, *, lock=False):
        tested.append(name)
        if len(tested) == step:
            begun.set()
            assert rollout.context.stop.wait(60)
        return prove(name, lock=lock)

    first.traffic.admission.prove = waiting
    with pressed(rollout.interrupt, begun):
        results = result(rollout)
    assert tested == ["ollama1", "ollama2"][:step]
    assert results == {"gpu-01": "stopped", "gpu-02": "stopped"}
    assert rollout.interrupted


def test_ctrl_c_during_the_question_to_the_balancers_is_a_stop(make):
    rollout = make({"gpu-01": "wanted"}, OUT)
    asking = threading.Event()

    def members():
        asking.set()
        assert rollout.context.stop.wait(60)
        return {}

    rollout.pool.members = members
    with pressed(rollout.interrupt, asking):
        results = result(rollout)
    assert results == {"gpu-01": "stopped"}
    assert rollout.interrupted


@pytest.mark.parametrize("ill", [False, True])
def test_an_instance_with_a_new_address_is_tested_before_the_last_wave(make, ill):
    text = "server 192.0.2.1:3001 down; # gpu-01/ollama1\n"
    roles = ("ollama", "models", "balancer")
    down = {"gpu-01/ollama1"} if ill else set()
    rollout = make({"gpu-01": "old", "lb-01": "wanted"}, {}, ill=down, roles=roles, upstreams={"lb-01": text})
    known = []
    rollout._last_wave = lambda: known.append(rollout.roll.members.labels(Membership.NOT_READY))
    assert result(rollout) == {"gpu-01": "failed" if ill else "changed", "lb-01": "ok"}
    assert make.events == ["deploy gpu-01", "deploy lb-01", "prove gpu-01/ollama1"]
    assert known == [down]


@pytest.mark.parametrize("ill", [False, True])
def test_a_run_of_other_roles_admits_blocking_instances_and_fails_no_host_for_a_failed_test(make, ill):
    down = {"gpu-02/ollama2": ""}
    rollout = make(
        {"gpu-01": "old", "gpu-02": "wanted"},
        down,
        ill=down if ill else (),
        roles=("docker",),
        role="docker",
        step=Part,
    )
    assert result(rollout) == {"gpu-01": "changed", "gpu-02": "ok"}
    assert make.events[0] == "prove gpu-02/ollama2"
    assert ("up gpu-02/ollama2" in make.events) is not ill


def test_balancers_that_disagree_about_a_drain_stop_no_run() -> None:
    """A drain that reached only one of two balancers lasts, and every later deploy reads the difference."""
    drained = "# drained a/ollama1 since now by me@here: repair\nserver 10.0.0.1:3001 down; # a/ollama1\n"
    texts = [f"upstream x {{\n{text}}}" for text in (drained, "server 10.0.0.1:3001; # a/ollama1\n")]
    for order in (texts, texts[::-1]):
        merged = recovery._merged([upstream.members(text) for text in order])
        assert merged["a/ollama1"].drained is not None
