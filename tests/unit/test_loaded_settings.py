"""The context of a loaded model and the requests that a model gets at once: words of plan, checks of verify."""

from typing import Any

import pytest

from provision.steps.facts import HostFacts
from provision.steps.ollama.loaded_models import Resident
from provision.steps.ollama.loaded_settings import checks
from provision.steps.ollama.server_state import Server

CHAT, EMBEDS = "chat:1", "embed:latest"
TAGS: dict[str, dict[str, Any]] = {
    CHAT: {"details": {"family": "qwen2", "context_length": 131072}, "capabilities": ["completion"]},
    EMBEDS: {"details": {"family": "bert", "context_length": 512}, "capabilities": ["embedding"]},
}


ONE = "ollama1 answers 1 request at once of embed:latest (it only embeds), and not {} as num_parallel and max_conns of"
REST = " its balancers say: the rest waits in the server"
CURE = "; set num_parallel: 1 for ollama1, which lowers max_conns too"
LONGER = (
    "warning: chat:1 is loaded on ollama1 with 32768 tokens of context instead of 8192, by num_ctx of a request or of"
)
LONGER += " the model itself: it takes more memory"


def server(parallel: int = 4, context: int = 8192, **loaded: int) -> Server:
    names = {"chat": CHAT, "embeds": EMBEDS}
    entries = {names[name]: {"context_length": tokens} for name, tokens in loaded.items()}
    return Server("running", "10.0.0.11:3001", parallel=parallel, context=context, tags=TAGS, loaded=entries)


@pytest.mark.parametrize(
    ("models", "parallel", "said"),
    [
        ((CHAT,), 4, ""),
        (("embed",), 1, ""),
        (("embed",), 4, ONE.format(4) + REST + CURE),
        ((CHAT, "embed"), 2, ONE.format(2) + REST),
    ],
)
def test_verify_warns_of_a_model_that_gets_one_request_at_a_time(
    models: tuple[str, ...], parallel: int, said: str
) -> None:
    found = list(checks(server(parallel), "ollama1", models, []))
    assert [check.name for check in found] == ([f"warning: {said}"] if said else [])
    assert all(check.passed for check in found)


@pytest.mark.parametrize(
    ("tokens", "names", "failed"),
    [
        (8192, [f"{CHAT}: tokens of context"], []),
        (4096, [f"{CHAT}: tokens of context"], [f"{CHAT}: tokens of context"]),
        (32768, [LONGER], []),
    ],
)
def test_verify_compares_the_context_of_a_loaded_model(tokens: int, names: list[str], failed: list[str]) -> None:
    found = list(checks(server(1, chat=tokens), "ollama1", [CHAT], [CHAT]))
    assert [check.name for check in found] == names
    assert [check.name for check in found if not check.passed] == failed
    commands = [str(check.got) for check in found if not check.passed]
    assert all('"model": "chat:1", "keep_alive": 0' in text for text in commands), "the cure loads the model anew"


def test_the_length_of_a_model_bounds_its_context() -> None:
    (check,) = checks(server(1, embeds=512), "ollama1", [EMBEDS], [EMBEDS])
    assert (check.got, check.expected) == (512, 512)


def test_plan_says_both_in_its_note() -> None:
    step = Resident(instance="ollama1", models=(CHAT, "embed"))
    state = {"contexts": {CHAT: (4096, 8192)}, "single": {EMBEDS: "it only embeds"}, "parallel": 4}
    note = step.note(HostFacts(), state)
    assert note.startswith("chat:1 is loaded on ollama1 with 4096 tokens of context instead of 8192, ")
    assert "or for want of memory; ollama1 answers 1 request at once of embed:latest" in note
    assert step.note(HostFacts(), {"contexts": {}, "single": {}, "parallel": 4}) == ""
    assert step.note(HostFacts(), None) == ""
