"""The canary, which goes first and alone, and the order of the hosts after the canary."""

from functools import partial

import pytest

from provision.actions import exit_code
from provision.artifacts.store import Store
from provision.errors import CommandError, LockedError
from provision.plan import role_interface
from provision.plan.planner import HostPlan
from provision.rollout.outcome import Pace, selection
from provision.rollout.waves import Rollout
from provision.runs.context import Context

GPU = "ollama: {instances: [{gpus: [0]}]}"
FLEET = """
all:
  vars: {nginx: {accept_known_vulnerabilities: true, NGINX}}
  children:
    gpu: {hosts: {gpu-01: {GPU}, gpu-02: {GPU}, gpu-03: {GPU}}}
    balancer: {hosts: {BALANCERS}}
"""
ALL = frozenset(role_interface.order())


@pytest.fixture
def make(tmp_path, setup):
    """A function that makes a Rollout of an inventory with the work of a test."""

    def build(nginx, balancers, *, roles=ALL, limit=(), **pace):
        path = tmp_path / "inventory.yaml"
        path.write_text(FLEET.replace("NGINX", nginx).replace("GPU", GPU).replace("BALANCERS", balancers))
        inventory = role_interface.load(str(path))
        context = Context("run-1", inventory, roles, lambda event: None, Store(tmp_path / "store"), setup=setup)
        chosen = selection(inventory, inventory.select(limit), roles)
        return Rollout(context, chosen, None, 4, Pace(canary=True, **pace))

    return build


def worked_on(rollout, bad="", error=CommandError):
    """Return the changed hosts in order. The host `bad` fails, or every host for `*`."""
    seen = []

    def deploy(host, roles, fleet=None):
        if fleet is None:
            seen.append(host)
            if bad in ("*", host):
                raise error("no")
        yield from ()

    for part in rollout.members:
        part.run.read = lambda: None
        part.run.plan = lambda *args: HostPlan()
        part.run.deploy = partial(deploy, part.name)
    rollout.deploy()
    return seen


BALANCED = "lb-01: {}, lb-02: {}"


@pytest.mark.parametrize(
    ("nginx", "balancers", "how", "canary"),
    [
        ("", BALANCED, {}, "gpu-01"),
        ("build_host: lb-01", BALANCED, {}, "gpu-01"),
        ("build_host: gpu-02", "gpu-02: {}, lb-01: {}", {}, "gpu-01"),
        ("build_host: lb-01", "gpu-01: {}, lb-01: {}", {}, "gpu-02"),
        ("build_host: gpu-02", "", {}, "gpu-02"),
        ("build_host: gpu-02, build: each", "", {}, "gpu-01"),
        ("build_host: gpu-02", "", {"roles": ALL - {"nginx"}}, "gpu-01"),
        ("build_host: gpu-02", "", {"limit": ["gpu-01,gpu-03"]}, "gpu-01"),
        ("build_host: lb-01", BALANCED, {"limit": ["balancer"]}, "lb-01"),
    ],
)
def test_the_canary_is_the_first_gpu_host_that_waits_for_no_build(make, nginx, balancers, how, canary):
    made = make(nginx, balancers, **how)
    assert worked_on(made, bad="*") == [canary]
    assert made.guarded == f"{canary}, which went first, failed"
    assert {one.outcome.result for one in made.members if one.outcome.host != canary} == {"stopped"}


def test_after_the_canary_comes_the_host_that_builds_for_other_hosts(make):
    made = make("build_host: lb-02", BALANCED, serial=1)
    assert worked_on(made) == ["gpu-01", "lb-02", "gpu-02", "gpu-03", "lb-01"]


def test_a_single_later_failure_does_not_count_as_the_canary(make):
    made = make("", BALANCED, serial=1)
    assert worked_on(made, bad="gpu-02") == ["gpu-01", "gpu-02", "gpu-03", "lb-01", "lb-02"]
    assert made.guarded == ""


def test_a_locked_canary_stops_the_run_without_a_failure(make):
    made = make("", BALANCED)
    assert worked_on(made, bad="*", error=LockedError) == ["gpu-01"]
    assert made.guarded == "gpu-01, which went first, is locked"
    assert exit_code.of_run(made, [member.outcome for member in made.members]) == 6
