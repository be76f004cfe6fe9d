"""Instances that earlier runs left out: they prove themselves, and get requests again before others are changed."""

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
    """A note that is part of the instance `ollama1`, and does not disrupt it."""

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
    """The balancer that sends to all hosts; another one has nothing in its upstream."""

    def __init__(self, pool):
        self.pool, self.known = pool, ()

    def of(self, host):
        return [self.pool]

    def sending_to(self, host, key):
        return []

    def first_members(self, pool):
        return pool.members()

    def finish(self):
        """Nothing is open."""

    close = finish


@pytest.fixture
def make(tmp_path):
    """Makes a Rollout over gpu hosts and a balancer that is part of the run; every host is a folder of the test."""
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


def test_an_instance_that_was_left_out_is_given_back_before_anything_changes(make):
    rollout = make({"gpu-01": "wanted", "gpu-02": "old", "lb-01": "wanted"}, {"gpu-01/ollama2": ""})
    assert result(rollout) == {"gpu-01": "ok", "gpu-02": "changed", "lb-01": "ok"}
    assert make.events[:2] == ["prove gpu-01/ollama2", "up gpu-01/ollama2"]
    assert make.events.count("prove gpu-01/ollama2") == 1


def test_a_drained_instance_stays_out(make):
    rollout = make({"gpu-01": "wanted"}, {"gpu-01/ollama2": "drained"})
    assert result(rollout) == {"gpu-01": "ok"}
    assert make.events == ["deploy gpu-01"]


@pytest.mark.parametrize(("roles", "asked"), [(("ollama",), True), (("models",), True), (("docker",), False)])
def test_a_run_without_last_wave_asks_the_balancers_if_it_looks_at_instances(make, roles, asked):
    rollout = make({"gpu-01": "wanted", "lb-01": "wanted"}, OUT, roles=roles)
    rollout.deploy()
    assert bool(rollout.pool.looks) is asked
    assert ("up gpu-01/ollama1" in make.events) is asked


def test_an_instance_that_this_run_changes_proves_itself_at_the_end_of_its_hosts_part(make):
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
def test_an_instance_of_a_later_batch_gets_its_chance_before_the_first_batch_changes_anything(make, pace, ill):
    """Also where this run changes it: the hosts of the first batch would wait for it in vain."""
    down = {"gpu-02/ollama1": ""}
    rollout = make({"gpu-01": "old", "gpu-02": "old"}, down, ill=down if ill else (), pace=pace, step=Part)
    results = result(rollout)
    assert make.events[0] == "prove gpu-02/ollama1"
    assert make.events.index("prove gpu-02/ollama1") < make.events.index("deploy gpu-01")
    assert ("up gpu-02/ollama1" in make.events) is not ill
    assert make.events.count("prove gpu-02/ollama1") == (2 if ill else 1), "it is tested again when it was changed"
    assert results == {"gpu-01": "changed", "gpu-02": "failed" if ill else "changed"}


def test_hosts_that_begin_later_than_others_of_their_batch_count_as_later(make):
    rollout = make({"gpu-01": "old", "gpu-02": "old"}, {"gpu-02/ollama1": ""}, step=Part, forks=1)
    rollout.deploy()
    assert make.events[:2] == ["prove gpu-02/ollama1", "up gpu-02/ollama1"]


def test_an_instance_that_is_ill_keeps_no_other_of_its_host_out_and_fails_its_host_after_the_first_wave(make):
    rollout = make(
        {"gpu-01": "wanted", "gpu-02": "old"}, OUT, ill={"gpu-01/ollama1"}, pace=Pace(canary=True, max_fail=0)
    )
    outcomes = rollout.deploy()
    assert [outcome.result for outcome in outcomes] == ["failed", "changed"]
    assert outcomes[0].error.message == "gpu-01/ollama1 does not answer"
    assert [event for event in make.events if event.startswith("up")] == ["up gpu-01/ollama2"]
    assert not rollout.roll.members.halted
    assert rollout.fleet().not_ready == {"gpu-01/ollama1"}


def test_an_instance_of_a_host_that_fails_in_its_part_is_given_back_if_it_is_well(make):
    rollout = make({"gpu-01": "old"}, {"gpu-01/ollama1": ""}, step=Part)

    def fails(*args):
        rollout.members[0].run.plans.append(HostPlan())
        yield from ()
        raise CommandError("no such model")

    rollout.members[0].run.deploy = fails
    (outcome,) = rollout.deploy()
    assert outcome.error.message == "no such model"
    assert make.events == ["prove gpu-01/ollama1", "up gpu-01/ollama1"]


def test_an_instance_on_which_another_run_is_at_work_is_left_to_that_run(make):
    rollout = make({"gpu-01": "wanted"}, {"gpu-01/ollama1": ""})

    def locked(name, *, lock=False):
        raise LockedError("gpu-01 is locked by run-0")

    rollout.members[0].traffic.admission.prove = locked
    assert result(rollout) == {"gpu-01": "locked"}
    assert "up gpu-01/ollama1" not in make.events
    assert not rollout.fleet().not_ready, "its marks are kept"


@pytest.mark.parametrize("step", [1, 2])
def test_ctrl_c_in_the_middle_of_recovery_stops_after_the_instance_that_is_tested(make, step):
    rollout = make({"gpu-01": "old", "gpu-02": "old"}, OUT)
    begun = threading.Event()
    (first, _) = rollout.members
    prove = first.traffic.admission.prove
    tested = []

    def waiting(name, *, lock=False):
        tested.append(name)
        if len(tested) == step:
            begun.set()
            assert rollout.context.stop.wait(5)
        return prove(name, lock=lock)

    first.traffic.admission.prove = waiting
    with pressed(rollout.interrupt, begun):
        results = result(rollout)
    assert tested == ["ollama1", "ollama2"][:step]
    assert results == {"gpu-01": "stopped", "gpu-02": "stopped"}
    assert rollout.interrupted


def test_ctrl_c_while_balancers_are_asked_is_a_stop(make):
    rollout = make({"gpu-01": "wanted"}, OUT)
    asking = threading.Event()

    def members():
        asking.set()
        assert rollout.context.stop.wait(5)
        return {}

    rollout.pool.members = members
    with pressed(rollout.interrupt, asking):
        results = result(rollout)
    assert results == {"gpu-01": "stopped"}
    assert rollout.interrupted


@pytest.mark.parametrize("ill", [False, True])
def test_an_instance_whose_address_the_balancers_learn_in_the_last_wave_proves_itself_before_it(make, ill):
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
def test_a_run_of_other_roles_gives_back_what_would_be_in_its_way_and_fails_no_host_for_it(make, ill):
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
    """A drain that reached one of two balancers lasts, and is read by every deploy after it."""
    drained = "# drained a/ollama1 since now by me@here: repair\nserver 10.0.0.1:3001 down; # a/ollama1\n"
    texts = [f"upstream x {{\n{text}}}" for text in (drained, "server 10.0.0.1:3001; # a/ollama1\n")]
    for order in (texts, texts[::-1]):
        merged = recovery._merged([upstream.members(text) for text in order])
        assert merged["a/ollama1"].drained is not None
