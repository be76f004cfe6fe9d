"""A new role is its module, its name in `roles.ORDER`, and its templates: a late role of the test goes all the way."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from provision import roles, testing
from provision.artifacts.store import Store
from provision.command import Command, Run
from provision.errors import CommandError
from provision.inventory import Host, Inventory, Settings
from provision.plan import role_choice, role_interface
from provision.plan.role_interface import Entry
from provision.rollout.outcome import DEFAULT, selection
from provision.rollout.waves import Rollout
from provision.runs.context import Context
from provision.steps.base import Step
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from tests.shell import sh

from .test_balancer_pool import Refusing, found, make
from .test_host_run import Note
from .test_recovery import OUT
from .test_recovery import make as recovering  # noqa: F401 - a fixture

NAMES = ("gpu-01", "gpu-02", "lb-01", "lb-02", "mon-01")
INVENTORY = """
all:
  vars: {nginx: {accept_known_vulnerabilities: true}, monitoring: {interval: 5s}}
  children:
    gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}]}}, gpu-02: {ollama: {instances: [{gpus: [0]}]}}}}
    balancer: {hosts: {lb-01: {}, lb-02: {}}}
    monitoring: {hosts: {mon-01: {}}}
"""


class Monitoring(Settings):
    """Settings of the new role."""

    interval: str = "30s"


@dataclass(frozen=True)
class Logged(Note):
    """A note whose making stands in a log, with what was known of the fleet.

    Args:
        log: path of the log.
        word: what is written there.
        fails: whether its command fails.
        fleet: the state of the fleet.
    """

    log: str = ""
    word: str = ""
    fails: bool = False
    fleet: FleetState = field(default_factory=FleetState)

    def want(self, facts: HostFacts, have: Any) -> Any:
        return {"text": f"failed: {sorted(self.fleet.failed)}"}

    def in_fleet(self, fleet: FleetState) -> Step:
        return dataclasses.replace(self, fleet=fleet)

    def commands(self, have: Any, want: Any) -> list[Command]:
        script = (
            'echo "$2 begins" >>"$3"; sleep 0.1; echo "$2 ends" >>"$3"; printf %s "$4" >"$1"' + "; exit 1" * self.fails
        )
        return [sh(script, self.path, self.word, self.log, want["text"], title="write")]


Register = Callable[..., ModuleType]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Lists a module of the test among the roles, before another role or at the end."""

    def register(name: str, before: str = "", **attributes: Any) -> ModuleType:
        module = ModuleType(f"provision.roles.{name}")
        vars(module).update({"Settings": Settings, "OWNED": (), **attributes})
        monkeypatch.setitem(sys.modules, module.__name__, module)
        place = roles.ORDER.index(before) if before else len(roles.ORDER)
        monkeypatch.setattr(roles, "ORDER", (*roles.ORDER[:place], name, *roles.ORDER[place:]))
        return module

    return register


@pytest.fixture(params=["balancer", ""], ids=["before the balancer's role", "after the balancer's role"])
def monitoring(request: pytest.FixtureRequest, register: Register, tmp_path: Path) -> ModuleType:
    """The role `monitoring`: late, and on every host; the host of its group tells of all."""

    def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
        yield _logged(tmp_path, host, "monitoring")

    def concerns(host: Host, inventory: Inventory) -> tuple[Host, ...]:
        return inventory.hosts if "monitoring" in host.groups else ()

    return register(
        "monitoring",
        request.param,
        Settings=Monitoring,
        LATE=True,
        GROUPS=("monitoring",),
        steps=steps,
        concerns=concerns,
        peers=concerns,
        warnings=lambda host, inventory: ["monitoring warns"],
    )


def _logged(folder: Path, host: Host, word: str, *, fails: bool = False) -> Logged:
    return Logged(str(folder / host.name / word), log=str(folder / "log"), word=f"{word} {host.name}", fails=fails)


@pytest.fixture
def inventory(monitoring: ModuleType, tmp_path: Path) -> Inventory:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY)
    return role_interface.load(str(path))


def test_every_role_says_only_what_somebody_asks_for() -> None:
    """A misspelt `LATE` would be an early role."""
    for name in roles.ORDER:
        flags = {
            word
            for word, value in vars(role_interface.role(name)).items()
            if value is True and not word.startswith("_")
        }
        assert flags <= set(vars(role_interface.Role)), name


def test_a_new_role_is_loaded_with_its_settings_its_group_and_its_warnings(inventory: Inventory) -> None:
    assert tuple(host.name for host in inventory.hosts) == NAMES
    assert inventory.host("gpu-01").settings["monitoring"] == Monitoring(interval="5s")
    assert "monitoring warns" in inventory.warnings


def test_a_new_role_has_its_place_among_the_steps_of_every_host(inventory: Inventory) -> None:
    assert role_choice.choose(["monitoring"], []) == {"monitoring"}
    assert role_interface.late() == {"monitoring", "balancer", "keepalived"}
    for host in inventory.hosts:
        names = [entry.role for entry in role_interface.steps(host, inventory)]
        assert Counter(names)["monitoring"] == 1
        assert list(dict.fromkeys(names)) == [name for name in role_interface.order() if name in names]


def test_the_way_to_the_peers_of_a_role_is_among_the_facts(inventory: Inventory) -> None:
    words = role_interface.facts_command(inventory.host("mon-01"), inventory).words
    assert {"gpu-01", "gpu-02", "lb-01", "lb-02"} <= set(words)
    assert "mon-01" not in words


def test_a_limited_run_includes_the_late_parts_that_tell_of_its_hosts(inventory: Inventory) -> None:
    chosen = selection(inventory, inventory.select(["gpu-01"]), frozenset({"ollama", "monitoring", "balancer"}))
    assert [(host.name, set(names)) for host, names in chosen] == [
        ("gpu-01", {"ollama", "monitoring", "balancer"}),
        ("lb-01", {"balancer"}),
        ("lb-02", {"balancer"}),
        ("mon-01", {"monitoring"}),
    ]
    assert [host.name for host, _ in selection(inventory, inventory.select(["lb-01"]), frozenset({"monitoring"}))] == [
        "lb-01",
        "mon-01",
    ]


@pytest.fixture
def rollout(inventory: Inventory, register: Register, tmp_path: Path) -> Callable[..., Rollout]:
    """Makes a run of the new role, of an early role of the test, and of a balancer's part that is the test's own."""

    def work(host: Host, inventory: Inventory) -> Iterator[Step]:
        yield _logged(tmp_path, host, "work", fails=host.name in failing)

    def steps(host: Host, inventory: Inventory) -> tuple[Entry, ...]:
        entries = [e for e in role_interface.steps(host, inventory) if e.role in ("work", "monitoring")]
        balances = [Entry("balancer", _logged(tmp_path, host, "balancer"))] if host.balancer else []
        return tuple(sorted([*entries, *balances], key=lambda entry: role_interface.order().index(entry.role)))

    def build(*bad: str) -> Rollout:
        failing.extend(bad)
        chosen = frozenset({"work", "monitoring", "balancer"})
        context = Context("run-1", inventory, chosen, lambda event: None, Store(tmp_path / "store"), setup=setup)
        return Rollout(context, [(host, chosen) for host in inventory.hosts], None, 8, DEFAULT)

    failing: list[str] = []
    register("work", "docker", steps=work)
    inventory = inventory.replace(
        [Host(**{**vars(host), "settings": {**host.settings, "work": Settings()}}) for host in inventory.hosts]
    )
    for name in NAMES:
        (tmp_path / name).mkdir()
    setup = testing.setup(tmp_path, steps=steps, owned=())
    return build


def test_a_plan_shows_the_changes_of_a_new_late_role_on_every_host(rollout: Callable[..., Rollout]) -> None:
    for outcome in rollout().plan():
        assert outcome.error is None
        assert "monitoring" in {change.role for change in outcome.plan.changes}


def test_a_new_late_role_is_deployed_after_all_other_roles_and_knows_what_became_of_the_hosts(
    rollout: Callable[..., Rollout], tmp_path: Path
) -> None:
    results = {outcome.host: outcome.result for outcome in rollout("gpu-02").deploy()}
    assert results == {**dict.fromkeys(NAMES, "changed"), "gpu-02": "failed"}
    lines = (tmp_path / "log").read_text().splitlines()
    late = [number for number, line in enumerate(lines) if not line.startswith("work")]
    assert min(late) > max(number for number, line in enumerate(lines) if line.startswith("work"))
    for name in set(NAMES) - {"gpu-02"}:
        assert (tmp_path / name / "monitoring").read_text() == "failed: ['gpu-02']"


def test_balancers_go_one_at_a_time_beside_a_new_late_role(rollout: Callable[..., Rollout], tmp_path: Path) -> None:
    rollout().deploy()
    lines = (tmp_path / "log").read_text().splitlines()
    balancing = [line for line in lines if line.startswith(("balancer", "monitoring lb"))]
    ends = [line.split()[1] for line in balancing]
    assert len(balancing) == 8
    assert sorted(map(tuple, (ends[:4], ends[4:]))) == [("lb-01",) * 4, ("lb-02",) * 4]


def test_a_late_role_that_sends_nobody_requests_leaves_recovery_to_the_first_wave(
    monitoring: ModuleType,
    recovering: Any,  # noqa: F811 - the fixture
) -> None:
    run = recovering({"gpu-01": "wanted", "lb-01": "wanted"}, OUT, roles=("ollama", "monitoring"))
    run.deploy()
    assert run.pool.looks, "no last wave renders the upstream, so the balancer is asked"
    assert "up gpu-01/ollama1" in recovering.events


def test_marks_are_journalled_under_the_role_whose_step_routes(monitoring: ModuleType, tmp_path: Path) -> None:
    balancer = Refusing()
    with pytest.raises(CommandError):
        make(tmp_path, balancer, found).update(down=["gpu-01/ollama1"])
    journal = b"".join(command.stdin for commands in balancer.execs for command in commands if isinstance(command, Run))
    assert b'"step": "config:balancer", "role": "balancer"' in journal
