"""A plan with a model that does not fit its card: refused, the other instance goes on, and --force-fit overrules."""

from pathlib import Path
from typing import Any

import pytest

from provision import actions, testing
from provision.actions import exit_code
from provision.actions.pace import DEFAULT_PACE
from provision.actions.run_session import session_over_hosts
from provision.command import Answer, Run
from provision.events import ignore
from provision.plan.role_interface import Entry
from provision.report import recap
from provision.report.next_command import request_words

from .test_actions import INVENTORY
from .test_card_room import Loads

FACTS = """# os
ID=debian
# arch
amd64
# cgroup
2
# systemd
yes
# gpu-all
0, GPU-0, NVIDIA GeForce RTX 4090, 590.48.01, 24564, 8.9, Disabled, Disabled, Enabled
1, GPU-1, NVIDIA GeForce RTX 4090, 590.48.01, 24564, 8.9, Disabled, Disabled, Enabled
# gpu-all-exit
0
# end
"""


def absent(_: Run) -> Answer:
    """Answer as a host without notes, and without a registry."""
    return Answer(1, b"", b"curl: (6) Could not resolve host: registry")


@pytest.fixture
def request_of(tmp_path: Path) -> Any:
    (tmp_path / "inventory.yaml").write_text(INVENTORY)
    host = testing.FakeHost(reply=absent, facts=FACTS)

    def steps(host: Any, inventory: Any) -> tuple[Entry, ...]:
        small = Loads("/b", model="deepseek-r1:8b", gpus=(1,), instance="ollama2")
        return (Entry("ollama", Loads("/a")), Entry("ollama", small))

    setup = testing.setup(tmp_path / "runs", host.connect, steps=steps, owned=())

    def made(**words: Any) -> actions.Request:
        path = str(tmp_path / "inventory.yaml")
        return actions.Request(path, limit=("gpu-01",), tags=("ollama",), setup=setup, **words)

    return made


def test_a_plan_refuses_the_instance_and_shows_the_other(request_of: Any) -> None:
    plan = actions.plan(request_of())
    [outcome] = plan.outcomes
    assert plan.exit_code == 7
    assert [change.step.part_of for change in outcome.plan.changes] == ["ollama2"]
    assert outcome.plan.refused.keys() == {"ollama1"}
    assert outcome.error is not None
    assert "deepseek-r1:70b (context 8192 x 1, cache f16) needs 43.3 GiB of one card" in outcome.error.message
    assert "GPU" not in outcome.error.message
    assert not plan.is_none, "the operator may agree to the rest"


def test_force_fit_plans_both_and_says_so(request_of: Any, capsys: pytest.CaptureFixture[str]) -> None:
    request = request_of(force_fit=True)
    plan = actions.plan(request)
    [outcome] = plan.outcomes
    assert plan.exit_code == 0
    assert {change.step.part_of for change in outcome.plan.changes} == {"ollama1", "ollama2"}
    [remark] = plan.remarks
    assert remark.startswith("gpu-01: forced by --force-fit: ollama1: estimate: deepseek-r1:70b")
    result = actions.DeployResult(
        "run", "deploy --force-fit", request, DEFAULT_PACE, plan.inventory, plan.outcomes, exit_code.of_outcomes([])
    )
    recap.show(result, as_json=False, warned=False)
    assert "forced by --force-fit" in capsys.readouterr().err
    assert "--force-fit" in request_words(request)


def test_the_journal_names_the_option(request_of: Any) -> None:
    session, _ = session_over_hosts(request_of(force_fit=True), DEFAULT_PACE, ignore)
    assert (session.context.command, session.context.force_fit) == ("deploy --force-fit", True)
    session, _ = session_over_hosts(request_of(), DEFAULT_PACE, ignore)
    assert (session.context.command, session.context.force_fit) == ("deploy", False)
