"""Every file in tests/steps/<Class>/ is a case: what a step wants, and how it gets there and back.

step:      constructor arguments
facts:     fields of HostFacts (optional)
have:      what was found; null for absent; {content: TEXT} stands for the hash of a text that was read
want:      what it must want
commands:  the commands, as `describe` shows them: title, words, script, limits
undo:      likewise, back from `want` to `have` (optional)
refused:   part of the message with which it refuses, instead of all these
instances: of a guard, the instances that it refuses -> part of the reason (optional)
impact:    what it costs (optional)
reason:    why the step changes, in the operator's words (optional)
diff:      lines of the diff (optional)

After a change that is meant to change commands: PROVISION_GOLDEN=write pytest tests/unit/test_steps.py writes the
commands of all cases anew, and reading the diff is part of the change. In a new case `commands: []` is enough to begin.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from provision.command import describe
from provision.steps.base import RefusalError, Step
from provision.steps.facts import HostFacts
from provision.steps.system.file_scan import Content
from tests.unit.step_cases import cases, load, step_of, write_commands


def plain(value: Any) -> Any:
    """What YAML could say: tuples as lists, Content as its hash."""
    return json.loads(json.dumps(value, default=str))


def read_contents(have: Any) -> Any:
    """What was found, with every `{content: TEXT}` made a Content."""
    if not isinstance(have, dict):
        return have
    return {key: Content(value["content"].encode()) if is_content(value) else value for key, value in have.items()}


def is_content(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["content"]


@pytest.mark.parametrize("path", cases("steps"))
def test_step(path: Path) -> None:
    case = load(path)
    step, have = step_of(path, case), read_contents(case.get("have"))
    facts = TypeAdapter(HostFacts).validate_python(case.get("facts", {}))
    if "refused" in case:
        with pytest.raises(RefusalError) as refusal:
            step.want(facts, have)
        assert case["refused"] in str(refusal.value)
        return
    want = step.want(facts, have)
    assert plain(want) == plain(read_contents(case["want"]))
    described = {"commands": [describe(command) for command in step.commands(have, want)]}
    if "undo" in case:
        described["undo"] = [describe(command) for command in step.commands(want, have)]
    if os.environ.get("PROVISION_GOLDEN") == "write":
        write_commands(path, described)
        case |= described
    assert described == {key: case[key] for key in described}
    compare_optional(step, case, have, want)


def compare_optional(step: Step, case: dict[str, Any], have: Any, want: Any) -> None:
    if "impact" in case:
        assert step.impact(have, want) == case["impact"]
    if "instances" in case:
        found = step.refused(TypeAdapter(HostFacts).validate_python(case.get("facts", {})))
        assert {name: case["instances"].get(name, "") in why for name, why in found.items()} == dict.fromkeys(
            case["instances"], True
        )
    if "reason" in case:
        assert step.why(have, want) == case["reason"]
    if "diff" in case:
        assert list(step.diff(have, want)) == case["diff"]
    if "endangers" in case:
        assert step.endangers(have, want) == case["endangers"]
    assert step.endangers_cards or not step.endangers(have, want)


def test_another_flag_of_docker_create_fails_its_case() -> None:
    """Every word of the command counts, and the case of the step would not accept one more of them."""
    path = Path(__file__).parents[1] / "steps" / "Container" / "add.yaml"
    case = load(path)
    step, facts = step_of(path, case), TypeAdapter(HostFacts).validate_python(case["facts"])
    create, start = step.commands(None, step.want(facts, None))
    assert [describe(create), describe(start)] == case["commands"]
    privileged = dataclasses.replace(create, words=(*create.words[:-1], "--privileged", create.words[-1]))
    assert describe(privileged) != case["commands"][0]
    for number in range(len(create.words)):
        fewer = dataclasses.replace(create, words=(*create.words[:number], *create.words[number + 1 :]))
        assert describe(fewer) != case["commands"][0]


def test_there_are_cases() -> None:
    assert cases("steps")
