"""The cost of a read, counted in the script for a host: commands, programs by name, and bytes. Never a time."""

import re
from pathlib import Path

import pytest

from provision.apply.host_run import HostRun
from provision.artifacts.store import Store
from provision.command import Answer, Run
from provision.inventory import Inventory
from provision.plan import gpu_loss, role_interface
from provision.plan.planner import Change
from provision.runs.context import Context
from provision.ssh import script
from provision.steps.facts import HostFacts
from provision.steps.system.systemd import Service
from provision.testing import ShellHost
from tests.unit.test_golden import facts

INVENTORY = Path(__file__).parent / "golden" / "one-machine.yaml"
BALANCER = frozenset({"balancer"})
DOCKER = re.compile(rb"\b(docker (ps|inspect|image|volume|info|exec)|runc|nvidia-smi)\b")


class Silent(ShellHost):
    """A host with an empty answer to every command, which records the commands."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[Run]] = []

    def batch(self, commands, *, stop):
        self.asked.append(list(commands))
        return [Answer(1) for _ in commands]


def run_of(roles, folder) -> HostRun:
    inventory: Inventory = role_interface.load(str(INVENTORY))
    context = Context("run-1", inventory, roles, lambda event: None, Store(folder))
    return HostRun(inventory.hosts[0], Silent(), context)


def reads(roles, folder, *, guards: bool = True) -> tuple[list[Run], bytes]:
    """Return the commands of a read for some roles, and the script."""
    commands = run_of(roles, folder).reader.needed(roles, guards=guards)
    return commands, script.assemble(commands, script.make_mark(), stop=False)


def test_the_whole_read_is_few_commands_and_asks_docker_in_one_of_them(tmp_path):
    commands, text = reads(frozenset(role_interface.order()), tmp_path)
    assert len(commands) <= 16
    assert [str(command) for command in commands if command.slow] == ["host facts", "look at Docker"]
    assert len(text) < 26_400
    assert text.count(b"-exec cat") == 1, "one program prints contents, except for files that a container may change"
    assert text.count(b"--query-gpu=") == 2, "the second runs where instances run and no process is listed"
    assert text.count(b"docker ps -aq") == 1, "where containers are published comes of the look at Docker"


def test_a_read_for_the_balancer_asks_no_docker(tmp_path):
    commands, text = reads(BALANCER, tmp_path)
    assert len(commands) <= 5
    assert len(text) < 9_500
    assert not any("Docker" in str(command) for command in commands if "snap" not in str(command))


def test_the_read_under_the_lock_and_after_a_change_of_the_balancer_asks_neither_docker_nor_nvidia_smi(tmp_path):
    commands, text = reads(BALANCER, tmp_path, guards=False)
    assert [command.slow for command in commands] == [False] * 4
    assert len(text) < 6_500
    assert DOCKER.search(text) is None


@pytest.mark.parametrize("role", ["balancer", "nginx"])
def test_a_role_uses_no_part_of_the_host_facts_beyond_its_list(role):
    class Blind(HostFacts):
        def __getattribute__(self, name):
            assert name not in ("cards", "driver_error", "remembered", "published"), name
            return super().__getattribute__(name)

    inventory = role_interface.load(str(INVENTORY))
    host = inventory.hosts[0]
    known = facts(host.name, INVENTORY.with_suffix(".apt"))
    blind = Blind(**{name: getattr(known, name) for name in known.__dataclass_fields__})
    steps = [entry.step for entry in role_interface.steps(host, inventory) if entry.role == role]
    assert steps
    assert not role_interface.role(role).FACTS
    for step in steps:
        step.refused(blind)
        step.note(blind)
        step.want(blind, None)


def enabling(run: HostRun) -> Change:
    """Return a change of the balancer that reloads systemd: the service is to start at boot."""
    step = next(e.step for e in run.steps.entries if e.role == "balancer" and isinstance(e.step, Service))
    have = {"enabled": False, "running": True, "masked": False}
    return Change("balancer", step, "change", "enabled differs", have, {**have, "enabled": True})


def test_a_change_of_the_balancer_that_endangers_cards_reads_docker_too(tmp_path):
    run = run_of(BALANCER, tmp_path)
    needed = gpu_loss.reads(run.steps.entries)
    assert set(needed) <= set(run.reader.needed_for([enabling(run)], BALANCER, None))
    assert not set(needed) & set(run.reader.needed_for([], BALANCER, None))


def test_whether_cards_are_safe_is_never_taken_for_granted(tmp_path):
    run = run_of(BALANCER, tmp_path)
    assert run.disruption.of(enabling(run)) == {"*"}
    assert run.session.asked == [gpu_loss.reads(run.steps.entries)]
    run.disruption.of(enabling(run))
    assert len(run.session.asked) == 1
