"""provision's scripts for loading, testing, refreshing, deleting and booting, against a real server on the CPU.

SIMULATED in all cases: the container and its card, by a stand-in for docker and for nvidia-smi.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.command import Answer, Command, Script, sh
from provision.steps.instance.boot import instances_file, instances_script
from provision.steps.instance.engine import proved_at
from provision.steps.instance_paths import INSTANCES
from provision.steps.ollama import readiness
from provision.steps.ollama.engine import OLLAMA
from provision.steps.ollama.loaded_models import Resident
from provision.steps.ollama.model import Model
from tests.real.card_claim import claiming
from tests.real.instance import Host, Instance, ask
from tests.real.models import CHAT, EMBEDDING
from tests.real.noted import Noted
from tests.real.reading import read

MUCH = 40000  # MiB


def load(model: str) -> Command:
    step = Resident(instance="ollama1", models=(model,))
    (command,) = step.commands({"loaded": [], "on_cpu": []}, {"loaded": [model], "on_cpu": []})
    return command


@pytest.fixture
def claims(ollama1: Instance, host: Host) -> Iterator[Instance]:
    """The instance behind a proxy that says that its models are on the card; the card says that it is in use."""
    with claiming(ollama1.port) as port:
        ollama1.behind(f"127.0.0.1:{port}")
        host.card_in_use(MUCH)
        yield ollama1
    host.card_in_use(0)
    ollama1.behind(ollama1.at)


def loaded(instance: Instance) -> list[str]:
    return [model["name"] for model in json.loads(ask(instance.port, "GET", "/api/ps")[2])["models"]]


def test_a_load_on_the_cpu_fails(host: Host, ollama1: Instance, noted: Noted) -> None:
    done = host.run(load(CHAT))
    assert done.returncode == 1, done
    first = done.stderr.splitlines()[0]
    assert first.startswith("only 0 of ")
    assert "of a model are on the cards of ollama1: the server found no card" in first
    assert "library=cpu" in done.stderr, "the evidence has the line that says why"
    noted.evidence = f"exit 1: {first}"


def test_a_load_on_a_card_succeeds(host: Host, claims: Instance, noted: Noted) -> None:
    done = host.run(load(CHAT))
    assert done.returncode == 0, done
    assert loaded(claims) == [CHAT]
    noted.evidence = "exit 0; simulated: the card, by a proxy that says size_vram = size"


def test_a_server_that_only_claims_the_card_fails_a_load(host: Host, claims: Instance, noted: Noted) -> None:
    host.card_in_use(0)
    done = host.run(load(CHAT))
    assert done.returncode == 1, done
    assert "it works on the CPU" in done.stderr
    noted.evidence = f"exit 1: {done.stderr.splitlines()[0]}; simulated: the claim"


def test_a_load_of_a_model_that_only_embeds_succeeds(host: Host, claims: Instance, noted: Noted) -> None:
    done = host.run(load(EMBEDDING))
    assert done.returncode == 0, done
    assert loaded(claims) == [EMBEDDING]
    noted.evidence = "exit 0: 400 `does not support generate`, then /api/embed; simulated: the card"


@pytest.mark.parametrize("model", [CHAT, EMBEDDING])
def test_the_readiness_test_passes(model: str, host: Host, claims: Instance, noted: Noted) -> None:
    done = host.run(readiness.command("ollama1", (model,)))
    assert done.returncode == 0, done
    at = proved_at(Answer(0, done.stdout.encode(), b""))
    assert at == (claims.folder / "at").read_text().strip()
    noted.evidence = "exit 0; simulated: the card"


def test_the_readiness_test_takes_any_model(host: Host, claims: Instance, noted: Noted) -> None:
    done = host.run(readiness.command("ollama1", ("deepseek-r1:671b",), any_model=True))
    assert done.returncode == 0, done
    noted.evidence = "exit 0 with a model that is not declared; simulated: the card"


def test_the_readiness_test_without_a_model_passes(host: Host, claims: Instance, noted: Noted) -> None:
    done = host.run(readiness.command("ollama1", ()))
    assert done.returncode == 0, done
    noted.evidence = "exit 0; simulated: the card"


def test_the_readiness_test_fails_for_a_missing_model(host: Host, claims: Instance, noted: Noted) -> None:
    done = host.run(readiness.command("ollama1", ("nope:1b",)))
    assert done.returncode == 1, done
    assert "ollama1 did not end a streamed answer of nope:1b well (status 404)" in done.stderr
    noted.evidence = f"exit 1: {done.stderr.splitlines()[0]}"


def test_the_readiness_test_fails_on_the_cpu(host: Host, ollama1: Instance, noted: Noted) -> None:
    done = host.run(readiness.command("ollama1", (CHAT,)))
    assert done.returncode == 1, done
    assert "only 0 of " in done.stderr
    noted.evidence = f"exit 1: {done.stderr.splitlines()[0]}"


def test_a_refresh_restarts_a_server_without_a_card(host: Host, ollama1: Instance, noted: Noted) -> None:
    before = ollama1.pid
    step = Resident(instance="ollama1", models=(CHAT,))
    have = {"loaded": [CHAT], "on_cpu": [CHAT]}
    refresh = step.commands(have, {"loaded": [CHAT], "on_cpu": []})[0]
    done = host.run(refresh)
    assert done.returncode == 0, done
    assert "restarting it" in done.stdout
    assert ollama1.pid not in {0, before}
    noted.evidence = f"exit 0: {done.stdout.strip().splitlines()[-1]}; the server answers again"


def test_a_model_is_deleted(host: Host, ollama1: Instance, noted: Noted) -> None:
    _copy(ollama1, "short-lived:latest")
    done = host.run(_delete("short-lived:latest"))
    assert done.returncode == 0, done
    assert "short-lived" not in ask(ollama1.port, "GET", "/api/tags")[2]
    noted.evidence = "exit 0, gone from /api/tags"


def test_a_model_of_a_stopped_server_is_deleted(host: Host, ollama1: Instance, noted: Noted) -> None:
    _copy(ollama1, "short-lived:latest")
    ollama1.stop()
    done = host.run(_delete("short-lived:latest"))
    stopped = ollama1.pid == 0
    ollama1.start()
    assert done.returncode == 0, done
    assert stopped, "the script leaves the server stopped"
    assert "short-lived" not in ask(ollama1.port, "GET", "/api/tags")[2]
    noted.evidence = "exit 0: started for the request and stopped again, the model is gone"


def test_the_models_load_at_boot(host: Host, ollama1: Instance, known: Path, noted: Noted) -> None:
    second = host.instance("ollama2", known)
    ollama1.stop()
    done = _boot(host, [(ollama1, CHAT), (second, EMBEDDING)])
    assert done.returncode == 0, done
    assert (loaded(ollama1), loaded(second)) == ([CHAT], [EMBEDDING])
    second.stop()
    noted.evidence = "exit 0: two stopped instances run, a chat model and an embedding model are loaded"


def test_a_missing_model_at_boot_is_named(host: Host, ollama1: Instance, noted: Noted) -> None:
    done = _boot(host, [(ollama1, "nope:1b")])
    assert done.returncode == 1, done
    assert "could not load nope:1b" in done.stderr
    assert "failed: ollama1" in done.stderr
    noted.evidence = f"exit 1: {done.stderr.strip().splitlines()[-1]}"


def test_the_read_of_an_instance_is_understood(host: Host, ollama1: Instance, noted: Noted) -> None:
    host.run(load(CHAT))
    server = read(host, ollama1)
    assert set(server.tags or {}) >= {CHAT, EMBEDDING}
    assert set(server.loaded or {}) == {CHAT}
    assert not server.damage(CHAT), "every blob has the size in the manifest"
    listed = json.loads(ask(ollama1.port, "GET", "/api/tags")[2])["models"]
    assert {model["name"]: model["digest"] for model in listed} == {
        name: entry["digest"] for name, entry in (server.tags or {}).items()
    }
    noted.evidence = (
        f"the parser finds {len(server.tags or {})} models and their digests, one of them loaded, blobs whole"
    )


def _copy(instance: Instance, name: str) -> None:
    assert ask(instance.port, "POST", "/api/copy", {"source": CHAT, "destination": name})[0] == 200


def _delete(name: str) -> Command:
    (command,) = Model(instance="ollama1", name=name).commands({"whole": True}, None)
    return command


def _boot(host: Host, wanted: list[tuple[Instance, str]]) -> "subprocess.CompletedProcess[str]":
    """Run the script of the host's boot; only the path of its list is moved."""
    listed = host.folder / "instances"
    listed.write_bytes(instances_file((one.name, "127.0.0.1", one.port, (model,)) for one, model in wanted))
    text = instances_script(OLLAMA).decode().replace(INSTANCES, str(listed))
    return host.run(sh(Script("boot", text), title="boot"))
