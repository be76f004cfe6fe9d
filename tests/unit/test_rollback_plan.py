"""The plan of a rollback: the restored steps, their order, and the changes that stay."""

import dataclasses
import json
from pathlib import Path

import pytest

from provision.artifacts.store import Store
from provision.command import Answer, run
from provision.errors import FactError, HostError
from provision.plan import planner, role_interface
from provision.rollout.waves import Rollout
from provision.runs import history, rollback_plan
from provision.runs.context import Context
from provision.runs.history import ChangeRecord, Entry, Story
from provision.steps.base import Fact, RefusalError, converged
from provision.steps.docker import inspect
from provision.steps.docker.image import OwnedImages
from provision.steps.fleet_state import FleetState
from provision.steps.instance.container import Container
from provision.steps.nginx.balancer_config import UPSTREAM, Balancing
from provision.steps.nginx.generation import Generation
from provision.steps.nginx.upstream import Drained, Member, Upstream
from provision.steps.ollama.engine import OLLAMA
from provision.steps.system.file_scan import Content
from tests.unit import step_cases
from tests.unit.test_hostile import FACTS

ROLES = frozenset(role_interface.order())
INVENTORY = """
all:
  vars:
    nginx: {accept_known_vulnerabilities: true}
    ollama: {image: "ollama/ollama:0.34.4", models: [deepseek-r1:1.5b, qwen3:8b], https_proxy: "http://proxy.test:1"}
  children:
    gpu:
      hosts:
        gpu-01: {ansible_host: gpu, ollama: {instances: [{gpus: [0]}, {gpus: [1]}]}}
    balancer: {hosts: {lb-01: {ansible_host: lb}}}
"""


@pytest.fixture
def inventory(tmp_path: Path):
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return role_interface.load(str(path))


def made(step, have, want, role="ollama", **how):
    action = "remove" if want is None else "add" if have is None else "change"
    return ChangeRecord(step, role, action, "", have, want, **{"known": True, "result": "done", **how})


def undo(inventory, *changes, host="gpu-01", roles=ROLES):
    story = Story(Entry("run", "", "", "deploy", len(changes), "changed"), tuple(changes))
    return rollback_plan.undo(inventory.host(host), inventory, story, roles)


def ids(found):
    return [entry.step.id for entry in found.entries]


def container(inventory, name="ollama1", **how):
    """Return the state of a container on the host."""
    steps = (entry.step for entry in role_interface.steps(inventory.host("gpu-01"), inventory))
    step = next(step for step in steps if step.id == f"container:{name}")
    return {**step.want(FACTS, None), **how}


def kept(state):
    """Return a state after a round trip through a journal, with the kept bytes."""
    text = json.dumps(state, default=str)
    known = {str(one): one.data for one in contents(state)}
    return history._alive(json.loads(text), known)


def contents(value):
    if isinstance(value, Content):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [one for part in parts for one in contents(part)]


def test_a_container_comes_back_with_its_image_before_and_its_models_after_it(inventory):
    before = container(inventory, image="ollama/ollama:0.33.0", run="before", answers="no", running=False)
    found = undo(
        inventory,
        made("image:ollama/ollama:0.34.4", None, {"reference": "ollama/ollama:0.34.4"}),
        made("container:ollama1", before, container(inventory)),
        made("resident:ollama1", {"enough": False, "on_cpu": []}, {"enough": True, "on_cpu": []}, role="models"),
    )
    assert [one for one in ids(found) if not one.startswith("service:")] == [
        "image:ollama/ollama:0.33.0",
        "container:ollama1",
        "resident:ollama1",
    ]
    assert [(one.step, "stays" in one.why) for one in found.left] == [("image:ollama/ollama:0.34.4", True)]
    entry = next(entry for entry in found.entries if entry.step.id == "container:ollama1")
    want = entry.want(FACTS, container(inventory))
    assert (want["image"], want["answers"], want["running"]) == ("ollama/ollama:0.33.0", "yes", True)


def test_the_first_state_of_a_step_in_a_run_is_restored(inventory):
    states = [container(inventory, run=f"run {number}") for number in range(3)]
    found = undo(
        inventory,
        made("container:ollama1", states[0], states[1], result="failed"),
        made("container:ollama1", states[1], states[2]),
    )
    [entry] = [entry for entry in found.entries if entry.step.id == "container:ollama1"]
    assert entry.past["run"] == "run 0"


def test_added_things_go_in_the_opposite_order_and_are_not_tested(inventory):
    found = undo(
        inventory,
        made("volume:ollama2", None, {"ours": True}),
        made("file:/etc/provision/ollama/instances", {"kind": "file", "sha256": "0" * 64}, {"kind": "file"}),
        made("container:ollama2", None, container(inventory, "ollama2")),
        made("model:ollama2/qwen3:8b", None, {"whole": True}, role="models"),
        made("model:ollama1/qwen3:8b", None, {"whole": True}, role="models"),
        made("resident:ollama2", None, {"enough": True}, role="models"),
    )
    assert [one for one in ids(found) if not one.startswith("service:")] == [
        "file:/etc/provision/ollama/instances",
        "container:ollama2",
        "volume:ollama2",
    ]
    assert [instance.name for instance in found.host.instances] == ["ollama1"]
    role_interface.steps(found.host, inventory)
    assert all(entry.want(FACTS, {"x": 1}) is None for entry in found.entries[-2:])
    assert planner.make_change(found.entries[-1], {"ours": True}, None).reason == "was not there before"


@pytest.mark.parametrize("host", ["gpu-01", "lb-01"])
def test_an_added_instance_goes_even_if_no_longer_declared(inventory, host):
    found = undo(inventory, made("container:extra", None, container(inventory)), host=host)
    assert "container:extra" in ids(found)
    assert found.host == inventory.host(host)


def test_removed_things_come_back_with_their_mark(inventory):
    before = container(inventory, name="ollama1", run="before")
    found = undo(
        inventory,
        made("container:old", before, None),
        made("model:old/qwen3:8b", {"whole": True, "ours": True}, None, role="models"),
        made("volume:old", {"ours": True}, None),
        made("unit:provision-instances-old.service", {"sha256": Content(b"x"), "mode": "0644"}, None),
    )
    names = ids(found)
    assert {"container:old", "volume:old", "service:provision-instances-old"} <= set(names)
    assert names.index("volume:old") < names.index("container:old"), "Docker would create a volume without our mark"
    assert names.index("unit:provision-instances-old.service") < names.index("container:old"), "before any container"
    assert [(one.step, one.why) for one in found.left] == [
        ("model:old/qwen3:8b", "qwen3:8b was deleted and must be pulled again")
    ]


def test_changes_that_cannot_be_restored_are_listed_with_the_reason(inventory):
    found = undo(
        inventory,
        made("packages:docker", {"docker-ce": None}, {"docker-ce": "installed"}, role="docker"),
        made("container:ollama1", None, None, known=False),
        made("flux:capacitor", {"x": 1}, {"x": 2}),
        made("no step at all", {"x": 1}, {"x": 2}),
    )
    assert {one.step: one.why for one in found.left} == {
        "packages:docker": "packages stay as they are",
        "container:ollama1": "the state before the run is not kept on this host any more",
        "flux:capacitor": "this version of provision knows no such step",
        "no step at all": "this version of provision knows no such step",
    }
    assert all(name.startswith("service:") for name in ids(found))


def test_directories_and_builds_stay(inventory):
    found = undo(
        inventory,
        made("directory:/var/log/provision-nginx", None, {"kind": "directory"}, role="nginx"),
        made("build:nginx", None, {"prefix": "/x"}, role="nginx"),
        host="lb-01",
    )
    assert [one.why for one in found.left] == [
        "the directory stays, with its content",
        "it stays until the next build, and is not used",
    ]


def test_without_a_build_nothing_of_nginx_can_come_back(inventory):
    found = undo(
        inventory,
        made("build:nginx", {"builds": ["1.26.3-aaaaaaaa"]}, None, role="nginx"),
        made("link:/opt/provision/nginx/current", {"kind": "link", "target": "/x"}, None, role="nginx"),
        made("config:balancer", {"kind": "link", "files": {}}, None, role="balancer"),
    )
    assert {one.why for one in found.left} == {"nginx was removed and must be built again"}
    assert len(found.left) == 3


@pytest.mark.parametrize("state", [{"files": 3}, {"files": {"status.conf": 3}}, {"image": []}, {}])
@pytest.mark.parametrize("step", ["config:balancer", "container:old", "container:ollama1", "volume:", "model:x", ":"])
def test_a_nonsensical_journal_harms_no_other_host(inventory, step, state):
    for role in (*ROLES, "nonsense"):
        try:
            found = undo(inventory, made(step, state, state, role=role), roles=ROLES | {role})
        except FactError:
            continue
        for entry in found.entries:
            try:
                planner.wanted(entry, FACTS, None)
            except HostError:
                continue


def test_only_the_selected_roles_are_rolled_back(inventory):
    change = made("container:ollama1", container(inventory, run="before"), container(inventory))
    assert "container:ollama1" not in ids(undo(inventory, change, roles=frozenset({"nginx"})))


def test_a_service_goes_with_an_added_unit_and_runs_with_a_restored_unit(inventory):
    unit, service = "unit:provision-instances.service", "service:provision-instances"
    gone = undo(inventory, made(unit, None, {"loaded": True}), made(service, None, {"running": True}))
    assert service not in ids(gone)
    back = undo(
        inventory, made(unit, {"sha256": Content(b"x"), "loaded": False}, {"loaded": True}), made(service, {}, {})
    )
    entry = next(entry for entry in back.entries if entry.step.id == unit)
    assert entry.want(FACTS, None)["loaded"] is True
    assert service in ids(back)


@pytest.mark.parametrize("host", ["gpu-01", "lb-01"])
def test_every_step_of_every_role_can_be_restored_to_its_wanted_state(inventory, host):
    """A step in the past state stays, and every other step gets commands."""
    for entry in role_interface.steps(inventory.host(host), inventory):
        step = entry.step
        try:
            have = step.want(FACTS, None)
        except RefusalError:
            continue
        if not have or step.irrevocable(have, have):
            continue
        have = {"exe": "", "loaded": "", **have} if isinstance(step, Generation) else have
        want = dataclasses.replace(entry, past=kept(have)).want(FACTS, have)
        assert converged(have, want), step.id
        step.commands(None, want)
        step.commands(have, None)


def container_step(**given):
    return Container(name="ollama1", engine=OLLAMA, gpus=(), port=0, address="", **given)


@pytest.mark.parametrize("declared", [{}, {"OLLAMA_DEBUG": "1"}, {"OLLAMA_CONTEXT_LENGTH": "8192"}])
def test_a_container_is_restored_with_variables_that_the_image_sets_too(declared):
    """An earlier version recorded the image's variables beside the declared variables."""
    before = {"OLLAMA_CONTEXT_LENGTH": "8192", "OLLAMA_KEEP_ALIVE": "5m"}
    step = Container(
        name="ollama1", engine=OLLAMA, image="ollama/ollama:0.34.4", gpus=(), port=0, address="", environment=declared
    )
    case = step_cases.load(step_cases.TESTS / "facts/Container/declared_as_the_image_has_it.yaml")
    entry = role_interface.Entry("ollama", step, {"environment": before})
    found = entry.fact().parse(Answer(0, case["stdout"].encode()))
    assert found["environment"] == before


def test_a_missing_card_refuses_the_rollback_before_any_change(inventory):
    step = container_step(image="")
    with pytest.raises(RefusalError, match="GPU-gone, which this host has no more"):
        step.restore(FACTS, None, container(inventory, gpus=["GPU-gone"]))


# ---- the balancer's configuration ------------------------------------------------------------------------------


@pytest.fixture
def balancing(inventory):
    steps = [entry.step for entry in role_interface.steps(inventory.host("lb-01"), inventory)]
    return next(step for step in steps if isinstance(step, Balancing))


def configured(step, upstream, **how):
    files = {**step.files, UPSTREAM: upstream.text.encode()}
    return {
        "exe": "/opt/provision/nginx/old/sbin/nginx",
        "loaded": "",
        "odd": {},
        **step.wanted(files, None, {}),
        **how,
    }


ONE, TWO = "gpu-01/ollama1", "gpu-01/ollama2"
PAST = Upstream(
    name="ollama",
    method="random",
    max_fails=4,
    fail_timeout="5s",
    keepalive=6,
    zone=66,
    members=(
        Member("10.0.0.11", 3001, label=ONE, weight=9, max_conns=1),
        Member("10.0.0.11", 3002, down=True, label=TWO, max_conns=1),
    ),
)
NOW = dataclasses.replace(
    PAST, method="least_conn", members=tuple(dataclasses.replace(one, weight=1, down=False) for one in PAST.members)
)
BACK = FleetState({"gpu-01": "10.0.0.11"})


def restored(step, fleet, now=NOW, past=PAST):
    """Return the upstream that a rollback wants, and the whole configuration."""
    want = step.in_fleet(fleet).restore(FACTS, configured(step, now), configured(step, past))
    return Upstream.parse(want["files"][UPSTREAM].data.decode()), want


def test_the_configuration_of_the_past_has_the_marks_of_the_present(balancing):
    found, want = restored(balancing, BACK)
    assert found == dataclasses.replace(
        PAST, members=tuple(dataclasses.replace(one, down=False) for one in PAST.members)
    ), "an instance was down in the past and serves now"
    assert want["exe"] == "/opt/provision/nginx/old/sbin/nginx"
    commands = balancing.commands(configured(balancing, NOW, exe="/opt/provision/nginx/new/sbin/nginx"), want)
    assert all("/opt/provision/nginx/old/sbin/nginx" in command.words for command in commands[-2:])


def test_a_drained_member_stays_down_in_the_restored_upstream(balancing):
    wish = Drained(ONE, "today", "me", "why")
    found, _ = restored(balancing, BACK, now=NOW.updated(drain={ONE: wish}))
    assert [(one.down, one.drained) for one in found.members] == [(True, wish), (False, None)]


def test_a_rollback_that_would_leave_no_serving_instance_is_refused(balancing):
    found, _ = restored(balancing, dataclasses.replace(BACK, not_ready=frozenset({TWO})))
    assert [one.down for one in found.members] == [False, True]
    with pytest.raises(RefusalError, match="no serving instance would be left"):
        restored(balancing, FleetState(failed=frozenset({"gpu-01"})))
    elsewhere = dataclasses.replace(PAST, members=(Member("10.0.0.12", 3001, label="gpu-02/ollama1"),))
    with pytest.raises(RefusalError, match="no serving instance would be left"):
        restored(balancing, dataclasses.replace(BACK, not_ready=frozenset({ONE, TWO})), past=elsewhere)


def test_a_foreign_upstream_of_the_past_is_refused(balancing):
    past = configured(balancing, PAST)
    past["files"] = {**past["files"], UPSTREAM: Content(b"garbage {")}
    with pytest.raises(RefusalError, match="provision did not write the"):
        balancing.restore(FACTS, configured(balancing, NOW), past)


def test_shifted_ports_on_a_host_outside_the_rollback_keep_their_names(balancing):
    now = NOW.updated(up={ONE: "10.0.0.11:3002", TWO: "10.0.0.11:3003"})
    found, _ = restored(balancing, FleetState(), now=now)
    assert '"10.0.0.11:3002" "gpu-01/ollama1";' in found.text
    assert '"10.0.0.11:3003" "gpu-01/ollama2";' in found.text


def test_a_restored_declared_instance_gets_its_models_again(inventory):
    model = {"whole": True, "digest": "", "size": 1, "damaged": [], "ours": True}
    found = undo(
        inventory,
        made("model:ollama1/deepseek-r1:1.5b", model, None, role="models"),
        made("container:ollama1", container(inventory), None),
    )
    kinds = [one.partition(":")[0] for one in ids(found) if "ollama1" in one]
    assert kinds == ["container", "model", "model", "resident"]
    assert found.left == ()


def test_a_past_drain_that_has_ended_is_not_restored(balancing):
    found, _ = restored(balancing, BACK, past=PAST.updated(drain={ONE: Drained(ONE, "then", "me", "why")}))
    assert [(one.down, one.drained) for one in found.members] == [(False, None)] * 2


def test_a_balancer_without_an_upstream_takes_the_drains_of_other_balancers(balancing):
    wish = Drained(ONE, "today", "me", "why")
    known = dataclasses.replace(BACK, drained={ONE: wish})
    want = balancing.in_fleet(known).restore(FACTS, None, configured(balancing, PAST))
    found = Upstream.parse(want["files"][UPSTREAM].data.decode())
    assert [(one.down, one.drained) for one in found.members] == [(True, wish), (False, None)]


def test_the_balancers_of_restored_instances_check_their_marks_again(inventory, balancing):
    change = made("container:ollama1", container(inventory, run="before"), container(inventory))
    undos = {"gpu-01": undo(inventory, change)}
    found = rollback_plan.with_balancers(undos, inventory, ROLES)
    [entry] = found["lb-01"].entries
    now = NOW.updated(down={ONE})
    entry = dataclasses.replace(entry, step=entry.step.in_fleet(BACK))
    want = entry.want(FACTS, configured(balancing, now))
    assert Upstream.parse(want["files"][UPSTREAM].data.decode()) == NOW, "the mark, and nothing else"
    assert entry.want(FACTS, None) is None
    assert set(rollback_plan.with_balancers(undos, inventory, frozenset({"ollama"}))) == {"gpu-01"}
    assert set(
        rollback_plan.with_balancers({"gpu-01": dataclasses.replace(undos["gpu-01"], entries=())}, inventory, ROLES)
    ) == {"gpu-01"}


def test_a_configuration_without_kept_bytes_is_refused(balancing):
    state = configured(balancing, PAST)
    with pytest.raises(RefusalError, match="not kept"):
        balancing.restore(FACTS, state, {**state, "files": {name: str(one) for name, one in state["files"].items()}})


def test_every_rollback_tests_instances():
    assert role_interface.serving() <= ROLES


# ---- what stays for it -----------------------------------------------------------------------------------------


def pulled(*references, used):
    containers = {
        "ollama1": {"image": used, "labels": {inspect.MANAGED: "1"}},
        "theirs": {"image": "x:9", "labels": {}},
    }
    return OwnedImages()._pick(inspect.Docker(containers=containers, pulled=references))


def test_the_last_replaced_image_stays_one_change_longer():
    finder = OwnedImages()
    before = pulled("x:3", "x:1", "x:2", used="x:1")
    assert list(finder.kept(before, {"image:x:4", "container:ollama1"})) == ["image:x:1"], "as planned"
    after = pulled("x:4", "x:1", "x:3", "x:2", used="x:4")
    assert list(finder.kept(after, {"image:x:4", "container:ollama1"})) == ["image:x:1"], "as found afterwards"
    assert list(finder.kept(pulled("x:4", used="x:4"), {"image:x:4"})) == []
    assert list(finder.kept(after, {"file:/x"})) == [], "where no image is wanted none stays"


def test_a_thing_kept_by_a_finder_is_no_orphan():
    answer = Answer(0, b"")

    class Kept(OwnedImages):
        def fact(self):
            return Fact(run("true"), lambda _: {"image:x:1": {"reference": "x:1"}, "image:x:2": {"reference": "x:2"}})

    answers = {run("true"): answer}
    found = planner.plan_host([], frozenset({"image:x:3"}), [("ollama", Kept())], FACTS, answers)
    assert [(change.step.id, change.action) for change in found.changes] == [("image:x:2", "remove")]


def test_an_instance_removed_by_a_rollback_gets_no_requests(inventory, tmp_path):
    found = undo(inventory, made("container:ollama2", None, container(inventory, "ollama2")))
    context = Context("run", inventory, ROLES, lambda event: None, Store(tmp_path / "store"))
    rollout = Rollout(context, [(found.host, ROLES)], None, 1, past={"gpu-01": found.entries})
    assert rollout.fleet().not_ready == {"gpu-01/ollama2"}


def test_the_removal_of_a_previous_container_is_neither_undone_nor_listed(inventory):
    """The change of the container restores the past container."""
    found = undo(
        inventory,
        made("container:ollama1", container(inventory, run="before"), container(inventory)),
        made("previous:ollama1", {"image": "ollama/ollama:0.34.4", "status": "exited", "replaced": True}, None),
    )
    assert "container:ollama1" in ids(found)
    assert not any("previous" in step for step in [*ids(found), *(left.step for left in found.left)])


def test_a_kept_container_is_brought_back_whatever_the_journal_says_of_it(inventory):
    """Before the run, the container served, or an earlier run had stopped and kept it."""
    serving = container(inventory, image="ollama/ollama:0.33.0", run="before")
    stopped = {**serving, "running": False, "sees": [""], "answers": "", "restart": "no"}
    failed = container(inventory, running=False, previous=stopped)
    for before in (serving, {**serving, "previous": container(inventory)}, {**stopped, "aside": True}):
        found = undo(inventory, made("container:ollama1", before, container(inventory), result="failed"))
        entry = next(entry for entry in found.entries if entry.step.id == "container:ollama1")
        want = entry.want(FACTS, failed)
        assert want is not None
        assert (want["restart"], want["running"]) == ("unless-stopped", True)
        assert not want.keys() & {"previous", "aside"}
        assert [command.title for command in entry.step.commands(failed, want)] == [
            "bring the previous container of ollama1 back",
            "start container ollama1",
        ]
