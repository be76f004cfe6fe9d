"""Real clients through the balancer: openai-python, ollama-python, and the program ollama."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.roles.balancer_gateway import Client, Gateway, Served
from tests.gateway import packaged_nginx
from tests.gateway.running import RunningGateway, running
from tests.real import balancer
from tests.real.balancer import Balancer
from tests.real.install.programs import Programs
from tests.real.instance import Host, Instance
from tests.real.models import BRIEF, CHAT, EMBEDDING
from tests.real.noted import Noted

FOLDER = Path(__file__).parent / "clients"
CASES = {
    "openai_python": (
        "models",
        "one model",
        "chat",
        "chat stream with usage",
        "completions",
        "embeddings",
        "embeddings of a chat model",
        "responses",
        "responses stream",
        "unknown model",
        "max_completion_tokens is ignored",
    ),
    "ollama_python": (
        "list",
        "ps",
        "show",
        "chat",
        "chat stream",
        "generate",
        "generate stream",
        "embed",
        "embeddings",
        "pull is refused",
        "delete is refused",
    ),
}
Results = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def pair(host: Host, known: Path) -> list[Instance]:
    """Two running instances with the models."""
    return [host.instance(name, known).start() for name in ("ollama1", "ollama2")]


@pytest.fixture(scope="module")
def front(programs: Programs, pair: list[Instance], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with balancer.serving(programs.nginx, tmp_path_factory.mktemp("nginx"), pair) as running:
        yield running


@pytest.fixture(scope="module")
def results(programs: Programs, front: Balancer) -> dict[str, Results]:
    """What each client reports of its cases."""
    return {name: _run(programs.python, name, front) for name in CASES}


def _run(python: Path, name: str, front: Balancer) -> Results:
    words = [python, FOLDER / f"{name}.py", front.url, CHAT, EMBEDDING]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == list(CASES[name])
    return {row["name"]: row for row in rows}


@pytest.mark.parametrize(("client", "case"), [(client, case) for client, cases in CASES.items() for case in cases])
def test_client(client: str, case: str, results: dict[str, Results], programs: Programs, noted: Noted) -> None:
    noted.judge(client.replace("_", "-"), programs.version(client.replace("_", "-")))
    row = results[client][case]
    assert row["holds"], row["evidence"]
    noted.evidence = row["evidence"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("list",), CHAT),
        (("ps",), "NAME"),
        (("show", CHAT), "gemma3"),
        (("run", BRIEF, "Say yes."), ""),
        (("stop", BRIEF), ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_program_ollama(
    words: tuple[str, ...], expected: str, front: Balancer, pair: list[Instance], noted: Noted
) -> None:
    done = pair[0].client(*words, port=front.port)
    assert done.returncode == 0, done
    assert expected in done.stdout
    noted.evidence = f"exit 0{f': {expected}' if expected else ''}"


@pytest.mark.parametrize("words", [("pull", CHAT), ("cp", CHAT, "other"), ("rm", CHAT)], ids=" ".join)
def test_the_program_ollama_is_refused(
    words: tuple[str, ...], front: Balancer, pair: list[Instance], noted: Noted
) -> None:
    done = pair[0].client(*words, port=front.port)
    assert done.returncode == 1, done
    assert "this path is not open here" in done.stderr
    noted.evidence = f"exit 1: {done.stderr.strip().splitlines()[-1]}"


DETAILS = {"digest": "a" * 64, "size": 7, "modified_at": "2026-12-01T00:00:00Z"}
OPEN = Gateway(models={name: Served({"": "ollama"}, DETAILS) for name in (CHAT, BRIEF)})
"""The gateway of a balancer that reads bodies, without keys."""


@contextmanager
def gateway(folder: Path, served: Gateway, pair: list[Instance]) -> Iterator[RunningGateway]:
    """Run a gateway in front of the instances."""
    folder.mkdir()
    with running(
        packaged_nginx.unpacked(), folder, served, {"ollama": [instance.port for instance in pair]}
    ) as started:
        yield started


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("list",), BRIEF), (("show", CHAT), "gemma3"), (("run", BRIEF, "Say yes."), "")],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_program_ollama_at_a_balancer_that_reads_bodies(
    words: tuple[str, ...], expected: str, tmp_path: Path, pair: list[Instance], noted: Noted
) -> None:
    with gateway(tmp_path / "nginx", OPEN, pair) as front:
        done = pair[0].client(*words, port=front.port)
    assert done.returncode == 0, done
    assert expected in done.stdout
    noted.evidence = f"exit 0{f': {expected}' if expected else ''}"


@pytest.mark.parametrize(
    ("words", "expected"),
    [(("list",), BRIEF), (("run", BRIEF, "Say yes."), "")],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_the_program_ollama_needs_no_key_in_a_network_of_its_client(
    words: tuple[str, ...], expected: str, tmp_path: Path, pair: list[Instance], noted: Noted
) -> None:
    known = replace(OPEN, clients=(Client("cli", models=(BRIEF,)),), networks={"127.0.0.0/8": "cli"})
    with gateway(tmp_path / "nginx", known, pair) as front:
        done = pair[0].client(*words, port=front.port)
        assert {row["name"] for row in front.rows} == {"cli"}
    assert done.returncode == 0, done
    assert expected in done.stdout
    assert CHAT not in done.stdout, "a model that the client may not use"
    noted.evidence = f"exit 0, as the client of 127.0.0.0/8{f': {expected}' if expected else ''}"


@pytest.mark.parametrize("words", [("list",), ("run", BRIEF, "Say yes.")], ids=" ".join)
def test_the_program_ollama_has_no_key_and_is_not_sent_to_sign_in(
    words: tuple[str, ...], tmp_path: Path, pair: list[Instance], noted: Noted
) -> None:
    with gateway(tmp_path / "nginx", replace(OPEN, clients=(Client("alice"),)), pair) as front:
        done = pair[0].client(*words, port=front.port)
        assert {row["refused"] for row in front.rows} == {"no key"}
    assert done.returncode == 1, done
    assert done.stderr.startswith("Error: something went wrong"), done
    assert "sign" not in done.stderr.lower(), done
    noted.evidence = f"exit 1: {done.stderr.strip().splitlines()[-1]}"
