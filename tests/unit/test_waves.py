"""Across hosts: one bad host stops nobody else, and every host has a result."""

import dataclasses
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from provision.apply import host_run
from provision.apply.host_run import HostRun
from provision.artifacts.store import Store
from provision.cli.deploy import _hosts, ended, planned
from provision.command import Obtain, run, sh
from provision.errors import CommandError, FactError, LockedError, RefusedError, UnreachableError, UsageError
from provision.inventory import Connection, Host, Instance, Inventory
from provision.plan import gpu_loss
from provision.plan.role_order import INSTANCES, Entry
from provision.report import console
from provision.rollout import standing, waves
from provision.rollout.waves import Pace, Rollout, selection
from provision.runs import interrupt, lock
from provision.runs.context import Context, Stopped

from .ctrl_c import pressed
from .local import SETTINGS, LocalSession
from .test_host_run import Note

ROLES = frozenset({"docker"})


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a Rollout whose hosts are folders of the test."""
    monkeypatch.setattr(lock, "FOLDER", str(tmp_path / "run"))
    monkeypatch.setattr(host_run, "steps", lambda host, inventory: host.variables["entries"])
    monkeypatch.setattr(host_run, "owned", lambda: ())
    dead = {}
    monkeypatch.setattr(
        waves, "Session", lambda connection, password: LocalSession(dead.get(connection.address, frozenset()))
    )

    def build(hosts, *, unreachable=(), stop=None, forks=4, pace=None, role="docker"):
        groups, roles = ((role,) if role == "balancer" else ()), frozenset({role})
        made = []
        for name, how in hosts.items():
            (tmp_path / name).mkdir()
            dead[name] = frozenset({1}) if name in unreachable else frozenset()
            note = Note(str(tmp_path / name / "a"), how=how)
            connection, variables = Connection(address=name), {"entries": (Entry(role, note),)}
            kinds = ("gpu",) if name.startswith("gpu") else groups
            made.append(Host(name=name, groups=kinds, connection=connection, settings=SETTINGS, variables=variables))
            monkeypatch.setattr(lock, "FOLDER", str(tmp_path / "run"))
        inventory = Inventory(path="", hosts=tuple(made))
        context = Context(
            "run-1", inventory, roles, lambda event: None, Store(tmp_path / "store"), stop or threading.Event()
        )
        return Rollout(context, [(host, roles) for host in made], None, forks, pace or Pace())

    return build


def test_one_bad_host_stops_nobody_else(make):
    outcomes = make({"good": (), "bad": (run("false"),), "gone": ()}, unreachable=["gone"]).deploy()
    assert {outcome.host: outcome.result for outcome in outcomes} == {
        "good": "changed",
        "bad": "failed",
        "gone": "unreachable",
    }
    assert outcomes[1].error.step == "note:a"


def refuse(monkeypatch, name):
    """The instance `two` of a host cannot be worked on, and does not serve."""
    why = {"two": "two cannot run: GPU 1 (GPU-1) is missing"}
    monkeypatch.setattr(Note, "refused", lambda self, facts: why if f"/{name}/" in self.path else {})
    monkeypatch.setattr(gpu_loss, "lost", lambda names, *_: frozenset(names))


def test_a_host_with_an_instance_that_cannot_be_worked_on_fails_after_all_else(make, monkeypatch):
    refuse(monkeypatch, "gpu-01")
    made = make({"gpu-01": (), "gpu-02": ()})
    seen = []
    made._readmit = lambda: seen.append(made.fleet())
    one, other = made.deploy()
    assert (one.result, one.changed, other.result) == ("failed", ["note:a"], "changed")
    assert (one.error.exit_code, one.error.message) == (3, "two cannot run: GPU 1 (GPU-1) is missing")
    (known,) = seen
    assert (known.failed, known.unfit) == (frozenset(), {"gpu-01/two"}), "the balancers leave out that one alone"
    assert made.guarded == ""


def test_such_a_host_does_not_count_as_failed_for_the_limit_of_a_run_that_is_done(make, monkeypatch):
    refuse(monkeypatch, "gpu-01")
    made = make({"gpu-01": (), "gpu-02": ()}, pace=Pace(max_fail=0))
    assert results(made) == {"gpu-01": "failed", "gpu-02": "changed"}
    assert made.guarded == ""


def test_a_plan_shows_the_other_changes_of_a_host_with_such_an_instance(make, monkeypatch, capsys):
    refuse(monkeypatch, "gpu-01")
    outcomes = make({"gpu-01": ()}).plan()
    console.plan_text(outcomes, diff=False)
    said = capsys.readouterr().out
    assert "two cannot run: GPU 1 (GPU-1) is missing" in said
    assert "+ note:a" in said
    assert not planned(3, None, outcomes).is_none, "there is something to deploy"


def test_a_plan_changes_nothing_and_counts(make, tmp_path):
    outcomes = make({"one": (), "two": ()}).plan()
    assert [len(outcome.plan.changes) for outcome in outcomes] == [1, 1]
    assert not list((tmp_path / "one").iterdir())


def test_a_second_deploy_changes_nothing_with_one_exec_a_host(make):
    first = make({"one": ()})
    first.deploy()
    again = Rollout(first.context, [(member.run.host, ROLES) for member in first.members], None, 4)
    assert [outcome.result for outcome in again.deploy()] == ["ok"]
    assert [member.run.session.execs for member in again.members] == [1]


def test_every_host_is_worked_on_with_fewer_threads_than_hosts(make):
    outcomes = make({f"host-{n}": () for n in range(9)}, forks=2).deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"] * 9


def test_what_four_hosts_need_at_once_is_made_on_one_of_them(make, tmp_path):
    count = tmp_path / "count"
    text = 'echo made >>"$1"; sleep 0.3; head -c 1000 /dev/urandom >"$2"'

    def how(name):
        tar, note = str(tmp_path / name / "tar"), str(tmp_path / name / "a")
        made = Obtain("key", tar, (sh(text, str(count), tar, title="make it"),))
        return made, run("sh", "-c", 'printf wanted >"$1"', "sh", note)

    names = [f"host-{n}" for n in range(4)]
    outcomes = make({name: how(name) for name in names}).deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"] * 4
    assert count.read_text() == "made\n"
    assert len({(tmp_path / name / "tar").read_bytes() for name in names}) == 1


def test_stopping_leaves_the_rest_alone_and_says_so(make):
    stop = threading.Event()
    stop.set()
    assert [outcome.result for outcome in make({"one": ()}, stop=stop).deploy()] == ["stopped"]


def test_the_first_interrupt_cuts_hosts_that_are_only_read_and_leaves_those_that_are_changed(make):
    made = make({"read": (), "changed": ()})
    closed = []
    for member in made.members:
        member.run.session.close = lambda name=member.outcome.host: closed.append(name)
    made.members[1].run._lease.held = True
    made.interrupt(now=False)
    assert closed == ["read"]
    made.interrupt(now=True)
    assert closed == ["read", "read", "changed"]


def test_a_connection_ends_with_its_host(make, monkeypatch):
    made = make({"one": ()})
    closed = []
    made.members[0].run.session.close = lambda: closed.append("one")
    made.plan()
    assert closed == ["one"]


@pytest.fixture
def inventory():
    def host(name, *groups):
        return Host(name=name, groups=groups, connection=Connection(address=name))

    return Inventory(path="", hosts=(host("gpu-01", "gpu"), host("gpu-02", "gpu"), host("lb-01", "balancer")))


def test_a_limited_run_includes_the_balancers_that_send_to_its_hosts(inventory):
    chosen = selection(inventory, inventory.select(["gpu-01"]), frozenset({"ollama", "balancer"}))
    assert [(host.name, set(roles)) for host, roles in chosen] == [
        ("gpu-01", {"ollama", "balancer"}),
        ("lb-01", {"balancer"}),
    ]


def test_and_only_for_their_upstream_where_they_are_gpu_hosts_too():
    both = Host(name="both", groups=("gpu", "balancer"), connection=Connection(address="both"))
    one = Host(name="one", groups=("gpu",), connection=Connection(address="one"))
    inventory = Inventory(path="", hosts=(both, one))
    chosen = selection(inventory, [one], frozenset({"docker", "ollama", "balancer"}))
    assert [(host.name, len(roles)) for host, roles in chosen] == [("both", 1), ("one", 3)]


def test_but_not_where_the_balancers_role_is_left_out(inventory):
    chosen = selection(inventory, inventory.select(["gpu-01"]), frozenset({"ollama"}))
    assert [host.name for host, _ in chosen] == ["gpu-01"]


def test_a_limit_that_matches_nothing_is_a_usage_error(inventory):
    with pytest.raises(UsageError, match="did you mean gpu"):
        inventory.select(["gpu-9"])


def results(made):
    return {outcome.host: outcome.result for outcome in made.deploy()}


BAD = (run("false"),)


def test_a_canary_that_fails_keeps_the_others_from_being_touched(make, tmp_path):
    made = make({"one": BAD, "two": (), "three": ()}, pace=Pace(canary=True))
    assert results(made) == {"one": "failed", "two": "stopped", "three": "stopped"}
    assert made.guarded == "one, which went first, failed"
    assert not list((tmp_path / "two").iterdir())


def test_the_canary_is_a_gpu_host_where_there_is_one(make):
    made = make({"lb-01": (), "gpu-01": BAD, "gpu-02": ()}, pace=Pace(canary=True))
    assert results(made) == {"lb-01": "stopped", "gpu-01": "failed", "gpu-02": "stopped"}


def test_after_a_canary_that_is_well_the_others_follow(make):
    made = make({"one": (), "two": BAD, "three": ()}, pace=Pace(canary=True))
    assert results(made) == {"one": "changed", "two": "failed", "three": "changed"}
    assert made.guarded == ""


def test_more_failures_than_allowed_stop_the_run(make):
    hosts = {"one": BAD, "two": BAD, "three": (), "four": ()}
    made = make(hosts, pace=Pace(serial=2, max_fail=1))
    assert results(made) == {"one": "failed", "two": "failed", "three": "stopped", "four": "stopped"}
    assert made.guarded == "2 hosts failed, more than 1"
    assert "more than 1" in made.members[2].outcome.error.message


def test_hosts_that_cannot_be_reached_count_as_failed(make):
    made = make({"one": (), "two": ()}, unreachable=["one"], pace=Pace(serial=1, max_fail=0))
    assert results(made) == {"one": "unreachable", "two": "stopped"}


def test_as_many_failures_as_allowed_stop_nothing(make):
    made = make({"one": BAD, "two": ()}, pace=Pace(serial=1, max_fail=1))
    assert results(made) == {"one": "failed", "two": "changed"}


def test_no_more_hosts_at_a_time_than_is_said(make, tmp_path):
    busy = 'mkdir "$1/$2"; sleep 0.7; ls "$1" | wc -l >>"$1.count"; rmdir "$1/$2"; printf wanted >"$3"'
    (tmp_path / "busy").mkdir()

    def how(name):
        return (sh(busy, str(tmp_path / "busy"), name, str(tmp_path / name / "a"), title="count"),)

    names = [f"host-{n}" for n in range(6)]
    made = make({name: how(name) for name in names}, forks=6, pace=Pace(serial=2))
    assert set(results(made).values()) == {"changed"}
    assert max(map(int, (tmp_path / "busy.count").read_text().split())) <= 2


@pytest.mark.parametrize(("text", "number"), [("3", 3), ("25%", 2), ("1%", 1), ("100%", 10), ("", 0)])
def test_hosts_as_a_number_or_a_share(text, number):
    assert _hosts(text, "--serial", 10, least=1) == number


@pytest.mark.parametrize("text", ["0", "-1", "many", "150%", "1.5"])
def test_what_is_no_number_of_hosts(text):
    with pytest.raises(UsageError, match="--serial must be"):
        _hosts(text, "--serial", 10, least=1)


@pytest.mark.parametrize("names", [("lb-01", "lb-02", "lb-03"), ("gpu-01", "gpu-02", "gpu-03")])
def test_balancers_are_changed_one_at_a_time(make, tmp_path, monkeypatch, names):
    """Gpu hosts that balance over their own instances, too."""
    said = []
    monkeypatch.setattr(HostRun, "upstream", lambda run: "server 127.0.0.1:3001;" if run.host.gpu else "")
    monkeypatch.setattr(HostRun, "say", lambda run, kind, *rest: said.append(kind))
    how = {name: (sh('sleep 0.1; printf wanted >"$1"', str(tmp_path / name / "a"), title="write"),) for name in names}
    made = make(how, role="balancer")
    assert results(made) == dict.fromkeys(names, "changed")
    assert [kind for kind in said if kind in ("changing", "changed")] == ["changing", "changed"] * len(names)


def test_after_a_balancer_that_failed_the_others_are_left_as_they_are(make, tmp_path):
    made = make({"lb-01": BAD, "lb-02": BAD, "lb-03": BAD}, role="balancer")
    found = results(made)
    assert sorted(found.values()) == ["failed", "stopped", "stopped"]
    (bad,) = (name for name, result in found.items() if result == "failed")
    assert made.guarded == f"the balancer {bad} failed"


def test_after_a_balancer_that_somebody_else_has_the_others_are_changed(make):
    made = make({"lb-01": (), "lb-02": ()}, role="balancer")

    def locked(roles, fleet):
        raise LockedError("locked by somebody")

    made.members[0].run.deploy = locked
    outcomes = made.deploy()
    assert {outcome.host: outcome.result for outcome in outcomes} == {"lb-01": "locked", "lb-02": "changed"}
    assert ended(made, outcomes) == 6


@pytest.mark.parametrize(("groups", "held"), [(("balancer",), True), ((), False)])
def test_a_balancer_is_locked_until_all_is_over_for_it_may_still_be_told_of_others(make, tmp_path, groups, held):
    made = make({"one": ()})
    (member,) = made.members
    member.run.host = dataclasses.replace(member.run.host, groups=groups)
    made._all(lambda member: made._deploy(member, ROLES, None))
    assert (tmp_path / "run" / "lock").exists() == held
    made._finish()
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize(("error", "left"), [(UnreachableError("lost"), True), (CommandError("no"), False)])
def test_what_may_still_be_at_work_on_a_host_keeps_its_lock_whoever_else_of_the_run_is_over_there(
    make, tmp_path, error, left
):
    made = make({"one": ()})

    def work(member):
        made._deploy(member, ROLES, None)
        member.run.session.batch([member.run._lease.acquire()], stop=False)
        raise error

    made._all(work)
    assert made.context.cut_off == ({"one"} if left else set())
    made._finish()
    assert (tmp_path / "run" / "lock").exists() == left


def test_an_error_that_nobody_foresaw_keeps_no_other_host_from_its_turn(make):
    made = make({f"host-{n}": () for n in range(6)}, forks=2)
    seen = []

    def work(run):
        seen.append(run.host.name)
        if len(seen) == 1:
            raise KeyError("a bug")

    for member in made.members:
        member.outcome.error = CommandError("no")
    with pytest.raises(KeyError):
        made._on(work, [member.run for member in made.members], failed=True)
    assert len(seen) == 6


def test_one_balancer_that_fails_stops_nobody_else(make):
    made = make({"lb-01": BAD}, role="balancer")
    assert results(made) == {"lb-01": "failed"}
    assert made.guarded == ""


@pytest.mark.parametrize(
    ("error", "changes", "in_turn", "keeps"),
    [
        (RefusedError("lb-01 cannot be reached"), [], False, True),
        (CommandError("no such registry"), ["image:ollama", "model:ollama1/m"], False, True),
        (CommandError("no"), ["image:ollama", "container:ollama1"], False, False),
        (CommandError("no"), ["container:ollama1"], True, True),
        (FactError("what?"), [], False, False),
        (UnreachableError("no route"), [], False, False),
        (UnreachableError("lost"), ["container:ollama1"], True, False),
    ],
)
def test_a_failed_host_keeps_its_marks_where_nothing_that_runs_was_touched(make, error, changes, in_turn, keeps):
    made = make({"gpu-01": ()})
    (member,) = made.members
    made._fail(member, error)
    made.context.journal("gpu-01").changes.extend(changes)
    member.run.turn.failed = in_turn
    fleet = made.fleet()
    assert (fleet.partly, fleet.failed) == ((frozenset({"gpu-01"}), frozenset())[:: 1 if keeps else -1])


def test_a_host_that_could_not_be_given_one_more_instance_keeps_its_marks(make):
    made = make({"gpu-01": ()})
    (member,) = made.members
    made._fail(member, CommandError("no such model", step="model:ollama8/m"))
    shared = ["volume:ollama8", "file:/etc/provision/ollama/instances", "firewall:DOCKER-USER"]
    made.context.journal("gpu-01").changes.extend([*shared, "note:a", "model:ollama8/m"])
    assert made.fleet().failed == {"gpu-01"}, "note:a is nobody's"
    member.run.turn.made.add("ollama8")
    member.run.__dict__["entries"] = (Entry("ollama", SimpleNamespace(id="note:a", part_of="ollama8")),)
    assert made.fleet().partly == {"gpu-01"}
    made._fail(member, CommandError("no rule", step="firewall:DOCKER-USER"))
    assert made.fleet().failed == {"gpu-01"}


@pytest.mark.parametrize(
    ("error", "roles", "unclear"),
    [
        (Stopped("halted"), INSTANCES, True),
        (LockedError("somebody"), INSTANCES, True),
        (None, {"ollama"}, True),
        (None, INSTANCES, False),
        (None, {"docker"}, False),
    ],
)
def test_what_is_new_on_a_host_that_is_not_finished_may_not_serve_yet(make, error, roles, unclear):
    made = make({"gpu-01": ()})
    (member,) = made.members
    member.run.roles = frozenset(roles)
    assert standing.is_unfinished(member.run, error) is unclear


@pytest.mark.parametrize("failed", [False, True])
def test_one_that_is_ill_keeps_no_other_of_its_host_out(make, monkeypatch, failed):
    made = make({"gpu-01": ()})
    (member,) = made.members
    made.context = dataclasses.replace(made.context, roles=INSTANCES | {"balancer"})
    ones = [Instance(host="gpu-01", name=f"ollama{n}", gpus=(n,), port=3000 + n) for n in (1, 2)]
    member.run.host = dataclasses.replace(member.run.host, instances=tuple(ones))
    member.run.roles = INSTANCES
    text = "".join(f"server 10.0.0.1:{one.port} down; # gpu-01/{one.name}\n" for one in ones)
    monkeypatch.setattr(member.run, "upstream", lambda: text)
    monkeypatch.setattr(made.rolling, "waiting", lambda hosts: {f"gpu-01/{one.name}" for one in ones})
    if failed:
        made._fail(member, CommandError("no such model", step="model:ollama1/m"))
    given_back = []

    def test(name):
        if name == "ollama1":
            raise CommandError("it does not answer")

    monkeypatch.setattr(member.run.turn, "test", test)
    monkeypatch.setattr(made.rolling, "readmit", lambda host, name, at: given_back.append(name))
    made._readmit()
    assert given_back == ["gpu-01/ollama2"]
    assert member.outcome.error.message == ("no such model" if failed else "it does not answer")


def test_ctrl_c_while_what_is_down_is_tested_stops_after_that_one(make, monkeypatch):
    made = make({"gpu-01": ()})
    (member,) = made.members
    made.context = dataclasses.replace(made.context, roles=frozenset({"balancer"}))
    ones = [Instance(host="gpu-01", name=f"ollama{n}", gpus=(n,), port=3000 + n) for n in (1, 2)]
    member.run.host = dataclasses.replace(member.run.host, instances=tuple(ones))
    member.run.roles = INSTANCES
    text = "".join(f"server 10.0.0.1:{one.port} down; # gpu-01/{one.name}\n" for one in ones)
    monkeypatch.setattr(member.run, "upstream", lambda: text)
    tested, begun = [], threading.Event()

    def test(name):
        tested.append(name)
        begun.set()
        assert made.context.stop.wait(5)

    monkeypatch.setattr(member.run.turn, "test", test)
    with pressed(made.interrupt, begun):
        made._readmit()
    assert tested == ["ollama1"]
    assert made.interrupted


def test_the_second_interrupt_is_known_to_all(make):
    made = make({"one": ()})
    made.interrupt(now=False)
    assert not made.context.cut.is_set()
    made.interrupt(now=True)
    assert made.context.cut.is_set()


@pytest.mark.parametrize(
    ("run", "own", "given"),
    [
        ({"ollama"}, {"ollama"}, True),
        ({"ollama", "balancer"}, {"ollama", "balancer"}, True),
        ({"docker"}, {"docker"}, False),
        ({"ollama", "models", "balancer"}, {"ollama", "models", "balancer"}, False),  # the last wave does it
    ],
)
@pytest.mark.parametrize("fit", [True, False])
def test_a_run_of_some_roles_gives_back_what_an_earlier_one_left_out(make, monkeypatch, run, own, given, fit):
    made = make({"gpu-01": ()})
    (member,) = made.members
    made.context = dataclasses.replace(made.context, roles=frozenset(run))
    one = Instance(host="gpu-01", name="ollama1", gpus=(0,), port=3001)
    member.run.host = dataclasses.replace(member.run.host, instances=(one,))
    member.run.roles = frozenset(own)
    given_back = []

    def test(name):
        if not fit:
            raise CommandError("it does not answer")

    monkeypatch.setattr(member.run.turn, "test", test)
    monkeypatch.setattr(made.rolling, "waiting", lambda hosts: {"gpu-01/ollama1", "gpu-02/ollama1"})
    monkeypatch.setattr(made.rolling, "readmit", lambda host, name, at: given_back.append(name))
    made._readmit()
    assert given_back == (["gpu-01/ollama1"] if given and fit else [])
    assert (member.outcome.error is None) == (fit or not given)


@pytest.mark.parametrize("fit", [True, False])
def test_an_instance_that_is_in_the_way_is_given_back_if_it_is_well(make, monkeypatch, fit):
    made = make({"gpu-01": ()})
    (member,) = made.members
    one = Instance(host="gpu-01", name="ollama1", gpus=(0,), port=3001)
    member.run.host = dataclasses.replace(member.run.host, instances=(one,))
    given_back = []

    def test(name):
        if not fit:
            raise CommandError("it does not answer")

    monkeypatch.setattr(member.run.turn, "test", test)
    monkeypatch.setattr(made.rolling, "readmit", lambda host, name, at, old: given_back.append((name, old)))
    assert made.rolling.prove("gpu-01/ollama1") is fit
    assert given_back == [("gpu-01/ollama1", "gpu-01/ollama1")] * fit
    assert not made.rolling.prove("gpu-02/ollama1")  # not of this run


@pytest.mark.parametrize(
    ("listed", "given"),
    [
        ({"gpu-01/old"}, [("gpu-01/new", "gpu-01/old")]),
        ({"gpu-01/old", "gpu-01/new"}, []),  # it has a place of its own
        (set(), []),  # the balancers know nothing of either
    ],
)
def test_what_took_the_place_of_what_a_killed_run_took_away_is_given_back_instead(make, monkeypatch, listed, given):
    made = make({"gpu-01": ()})
    (member,) = made.members
    one = Instance(host="gpu-01", name="new", gpus=(0,), port=3001)
    member.run.host = dataclasses.replace(member.run.host, instances=(one,))
    given_back = []
    marker = SimpleNamespace(look=lambda: dict.fromkeys(listed))
    monkeypatch.setattr(made.rolling, "markers", lambda host: [marker])
    monkeypatch.setattr(member.run.turn, "test", lambda name: "10.0.0.1:3001")
    monkeypatch.setattr(made.rolling, "readmit", lambda host, name, at, old: given_back.append((name, old)))
    assert made.rolling.prove("gpu-01/old") is bool(given)
    assert given_back == given


def test_of_two_that_took_its_place_the_one_that_is_there_is_given_back(make, monkeypatch):
    made = make({"gpu-01": ()})
    (member,) = made.members
    both = tuple(Instance(host="gpu-01", name=name, gpus=(0,), port=3001) for name in ("absent", "there"))
    member.run.host = dataclasses.replace(member.run.host, instances=both)
    given_back = []

    def test(name):
        if name == "absent":
            raise CommandError("there is no such container")
        return "10.0.0.1:3001"

    monkeypatch.setattr(made.rolling, "markers", lambda host: [SimpleNamespace(look=lambda: {"gpu-01/old": None})])
    monkeypatch.setattr(member.run.turn, "test", test)
    monkeypatch.setattr(made.rolling, "readmit", lambda host, name, at, old: given_back.append((name, old)))
    assert made.rolling.prove("gpu-01/old")
    assert given_back == [("gpu-01/there", "gpu-01/old")]


def test_ctrl_c_while_balancers_are_asked_who_is_down_is_a_stop(make, monkeypatch):
    made = make({"gpu-01": ()})
    made.context = dataclasses.replace(made.context, roles=frozenset({"ollama"}))
    made.members[0].run.roles = frozenset({"ollama"})

    asking = threading.Event()

    def waiting(hosts):
        asking.set()
        assert made.context.stop.wait(5)
        return set()

    monkeypatch.setattr(made.rolling, "waiting", waiting)
    with pressed(made.interrupt, asking):
        made._readmit()
    assert made.interrupted


def test_ctrl_c_while_locks_are_given_back_is_too_late_and_the_second_cuts_them(make):
    made = make({"one": ()})
    (member,) = made.members
    finishing, closed = threading.Event(), []

    def finish(result, error):
        member.run.session.close = lambda: closed.append(made.context.cut.is_set())
        finishing.set()
        assert made.context.cut.wait(5)

    member.run.finish = finish
    with pressed(made.interrupt, finishing, made.context.stop):
        outcomes = made.deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"]
    assert closed == [True], "only the second cuts what gives a lock back"
    assert made.interrupted, "locks may be left"


def test_ctrl_c_after_the_last_step_changes_nothing(make):
    made = make({"one": ()})
    (member,) = made.members
    finishing = threading.Event()

    def finish(result, error):
        finishing.set()
        assert made.context.stop.wait(5)

    member.run.finish = finish
    with pressed(made.interrupt, finishing):
        outcomes = made.deploy()
    assert [outcome.result for outcome in outcomes] == ["changed"]
    assert not made.interrupted


def test_ctrl_c_breaks_nothing_off_wherever_it_comes():
    seen = []
    before = signal.getsignal(signal.SIGINT)
    with interrupt.at_ctrl_c(lambda *, now: seen.append(now)):
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        deadline = time.monotonic() + 5
        while len(seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert seen == [False, True, True]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_under_way_are_the_hosts_that_may_hold_the_lock_and_the_balancers_that_are_told(make, monkeypatch):
    made = make({"gpu-1": (), "gpu-2": ()})
    markers = [SimpleNamespace(host=SimpleNamespace(name=name), locked=False) for name in ("lb-1", "lb-2")]
    monkeypatch.setattr(made.rolling, "_markers", {one.host.name: one for one in markers})
    assert made.under_way() == []
    made.members[1].run._lease.held = markers[1].locked = True
    assert made.under_way() == ["gpu-2", "lb-2"]


def test_what_goes_wrong_at_the_first_ctrl_c_does_not_make_it_deaf_to_the_second():
    heard, seen = threading.Event(), []

    def interrupt(*, now):
        seen.append(now)
        heard.set()
        raise KeyError("a bug")

    second = threading.Event()
    with pressed(interrupt, second, heard):
        second.set()
        deadline = time.monotonic() + 5
        while len(seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert seen == [False, True]


def test_ctrl_c_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.at_ctrl_c(lambda *, now: None):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
