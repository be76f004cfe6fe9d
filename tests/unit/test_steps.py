"""Every file in tests/steps/<Class>/ is a case: the wanted state of a step, and the commands there and back.

step:      constructor arguments
facts:     fields of HostFacts (optional)
have:      the state on the host; null for absent; {content: TEXT} stands for the hash of a file with this text
want:      the expected wanted state
commands:  the commands, as `describe` shows them: title, words, script, limits
undo:      likewise, back from `want` to `have` (optional)
refused:   part of the message of a refusal, in place of all keys above
instances: of a guard, the refused instances -> part of the reason (optional)
impact:    the expected impact (optional)
reason:    why the step changes, in the operator's words (optional)
diff:      lines of the diff (optional)

After an intended change of commands, PROVISION_GOLDEN=write pytest tests/unit/test_steps.py writes the commands of all
cases anew. Reading the diff is part of the change. A new case may begin with `commands: []`.
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
    """Return a value as YAML could hold the value: tuples as lists, Content as a hash."""
    return json.loads(json.dumps(value, default=str))


def read_contents(have: Any) -> Any:
    """Return the state on the host, with a Content for every `{content: TEXT}`."""
    if not isinstance(have, dict):
        return have
    if is_content(have):
        return Content(have["content"].encode())
    return {key: read_contents(value) for key, value in have.items()}


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


def test_one_more_or_one_less_word_of_docker_create_fails_the_case() -> None:
    """Every word of the command counts: the case fails for a word more and for a word less."""
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
