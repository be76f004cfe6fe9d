"""The readiness test of an instance, and the model in its request, against a server that answers as Ollama does."""

from pathlib import Path
from typing import Any

import pytest

from provision.runs.context import Context
from provision.runs.journal import Kind
from provision.steps.ollama import readiness
from tests.unit.fake_roll import FakeSession, gpu, roll, traffic
from tests.unit.test_models import Server, run, server

__all__ = ["server"]


@pytest.fixture
def listed(server: Server) -> list[str]:
    """Names that `/api/tags` lists; the server generates with these alone."""
    server.names = []
    return server.names


def asked(server: Server) -> list[str]:
    return [body["model"] for _, _, body in server.asked]


@pytest.mark.parametrize(
    ("has", "which"),
    [
        (["old:1", "b:1", "a:latest"], ["a:latest"]),
        (["old:1", "b:1"], ["b:1"]),
        (["old:1", "older:1"], ["old:1"]),
        ([], []),
    ],
    ids=["the first declared one", "the first declared one that is there", "another that is there", "none"],
)
def test_without_a_role_that_pulls_models_the_test_uses_a_present_model(
    server: Server, listed: list[str], has: list[str], which: list[str]
) -> None:
    listed += has
    done = run(readiness.command("ollama1", ("a", "b:1"), any_model=True))
    assert done.returncode == 0, done.stderr
    assert asked(server) == which


def test_with_a_role_that_pulls_models_the_first_declared_model_must_be_present(
    server: Server, listed: list[str]
) -> None:
    listed += ["b:1"]
    done = run(readiness.command("ollama1", ("a", "b:1")))
    assert done.returncode == 1
    assert "status 404" in done.stderr
    assert asked(server) == ["a"]


@pytest.mark.parametrize("any_model", [False, True])
def test_without_a_declared_model_the_test_asks_for_no_model(
    server: Server, listed: list[str], any_model: bool
) -> None:
    listed += ["by-hand:1"]
    done = run(readiness.command("ollama1", (), any_model=any_model))
    assert done.returncode == 0, done.stderr
    assert asked(server) == []


def test_a_server_that_does_not_list_its_models_fails_the_test(server: Server) -> None:
    server.lists = False
    done = run(readiness.command("ollama1", ("a",), any_model=True))
    assert done.returncode == 1
    assert "does not list its models" in done.stderr


@pytest.mark.parametrize(
    ("roles", "kind", "brings"),
    [
        ({"ollama", "models"}, "deploy", True),
        ({"ollama"}, "deploy", False),
        ({"docker", "ollama", "models"}, "rollback", False),
        (set(), "undrain", True),
        (set(), "drain", False),
    ],
)
def test_the_commands_that_bring_models(roles: set[str], kind: Kind, brings: bool) -> None:
    none: Any = None
    assert Context("run", none, frozenset(roles), none, none, kind=kind).brings_models == brings


@pytest.mark.parametrize(("roles", "any_model"), [({"ollama"}, True), ({"ollama", "models"}, False)])
def test_admission_accepts_any_model_only_if_the_run_pulls_no_models(
    tmp_path: Path, roles: set[str], any_model: bool
) -> None:
    host = gpu("a")
    own = traffic(roll(tmp_path, host, roles=frozenset(roles)), host)
    assert own.admission.prove("ollama1") == "10.0.0.1:3001"
    assert isinstance(own.admission.session, FakeSession)
    assert own.admission.session.ran == [readiness.command("ollama1", host.instances[0].models, any_model=any_model)]


@pytest.mark.parametrize(
    ("code", "said", "fit"),
    [
        ("0", "GPU 0: NVIDIA L40S (UUID: GPU-0)", True),
        ("14", "GPU 0: NVIDIA L40S (UUID: GPU-0)\nWARNING: infoROM is corrupted at gpu 0000:01:00.0", True),
        ("15", "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error", False),
    ],
)
def test_a_warning_of_nvidia_smi_beside_the_cards_passes_the_test(
    server: Server, listed: list[str], monkeypatch: pytest.MonkeyPatch, code: str, said: str, fit: bool
) -> None:
    listed += ["a"]
    monkeypatch.setenv("SMI", code)
    monkeypatch.setenv("CARDS", said)
    done = run(readiness.command("ollama1", ("a",)))
    assert (done.returncode == 0) == fit
    assert fit or f"ollama1 sees no card: {said}" in done.stderr
