"""Every file in tests/facts/<Class>/ is a case: the answer of a host, and the state that a step or a finder reads.

step:        constructor arguments (optional)
exit, stdout, stderr:   the answer (by default 0 and empty)
and a single key of
state:       the state (missing keys are not compared)
absent:      true
blocked:     id of the blocking step
unreadable:  part of the message

tests/facts/reads.yaml has the command of each kind's read, as `describe` shows the command. After an intended change,
PROVISION_GOLDEN=write pytest tests/unit/test_facts.py writes the file anew.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.command import describe
from provision.steps.base import Answer, BlockedError, Step, UnreadableError
from tests.unit.step_cases import TESTS, cases, classes, load, step_of


@pytest.mark.parametrize("path", cases("facts"))
def test_fact(path: Path) -> None:
    case = load(path)
    fact = step_of(path, case).fact()
    if "unreadable" in case:
        with pytest.raises(UnreadableError) as unreadable:
            fact.parse(answer_of(case))
        assert case["unreadable"] in str(unreadable.value)
    elif "blocked" in case:
        with pytest.raises(BlockedError) as blocked:
            fact.parse(answer_of(case))
        assert blocked.value.by == case["blocked"]
    elif case.get("absent"):
        assert fact.parse(answer_of(case)) is None
    else:
        state = json.loads(json.dumps(fact.parse(answer_of(case)), default=str))
        assert {key: state.get(key) for key in case["state"]} == case["state"]


READS = TESTS / "facts" / "reads.yaml"


def test_the_words_of_every_read_are_as_they_were() -> None:
    reads: dict[str, set[str]] = {}
    for path in (param.values[0] for param in (*cases("facts"), *cases("steps"))):
        command = step_of(path, load(path)).fact().command
        reads.setdefault(path.parent.name, set()).add(describe(command))
    described = {kind: sorted(commands) for kind, commands in sorted(reads.items())}
    if os.environ.get("PROVISION_GOLDEN") == "write":
        READS.write_text(yaml.safe_dump(described, width=118, allow_unicode=True))
    assert described == load(READS)


def test_every_volatile_key_is_a_key_of_the_state_of_its_kind() -> None:
    seen: dict[str, set[str]] = {}
    for path in (param.values[0] for param in cases("facts")):
        case = load(path)
        if "state" in case:
            seen.setdefault(path.parent.name, set()).update(step_of(path, case).fact().parse(answer_of(case)))
    kinds = {name: kind.volatile for name, kind in classes().items() if name in seen and issubclass(kind, Step)}
    assert {name: keys - seen[name] for name, keys in kinds.items() if keys - seen[name]} == {}
    assert kinds["Container"] == {"running", "answers", "sees"}


def complaint(path: Path, answer: Answer) -> str:
    """Return the errors of the parser for an answer; "" means the parser accepts the answer."""
    try:
        step_of(path, load(path)).fact().parse(answer)
    except UnreadableError as error:
        return str(error)
    except BlockedError as error:
        return f"{error} {error.evidence}"
    return ""


@pytest.mark.parametrize("status", [1, 3, 124, 255])
@pytest.mark.parametrize("path", cases("facts"))
def test_no_error_quotes_the_standard_output_of_a_read(path: Path, status: int) -> None:
    """Standard output may hold the environment of containers; only standard error is evidence."""
    assert "hunter2" not in complaint(path, Answer(status, b"TOKEN=hunter2\n"))


def answer_of(case: dict[str, Any]) -> Answer:
    return Answer(case.get("exit", 0), octets(case.get("stdout", "")), octets(case.get("stderr", "")))


def octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def test_there_are_cases() -> None:
    assert cases("facts")
