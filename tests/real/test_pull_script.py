"""provision's script that pulls a model, with a real server and a model registry on loopback that fails on demand.

SIMULATED: the container, by a stand-in for docker, and the registry, which is that of the lab.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from provision.lab.model_registry import ModelRegistry
from provision.steps.ollama import server_state
from provision.steps.ollama.model import Model
from tests.real.instance import Host, Instance, ask, free_port, limit_text
from tests.real.noted import Noted

Pulled = subprocess.CompletedProcess[str]
CONFIG = {"model_format": "gguf", "model_family": "gemma3", "model_families": ["gemma3"], "file_type": "Q4_K_M"}
MODEL = "library/small:latest"
SIZE = 6 << 20


@pytest.fixture
def model(registry: ModelRegistry) -> str:
    """A model of 6 MB in the registry, under a name that no other case pulls."""
    registry.store.publish(MODEL, [("model", os.urandom(SIZE)), ("license", os.urandom(64))], CONFIG)
    return registry.name(MODEL)


def pull_command(name: str, tries: int = 1, stall: int = 600):
    (command,) = Model(instance="empty", name=name, tries=tries, stall=stall, insecure=True).commands(
        None, {"whole": True}
    )
    return command


def pull(host: Host, name: str, tries: int = 1, stall: int = 600, limit: float = 150) -> Pulled:
    """Run the script as a host does; a try that fails is followed by another after 5 s."""
    return host.run(pull_command(name, tries, stall), limit)


def final(noted: Noted, done: Pulled, *words: str) -> None:
    """The script fails at once, without another try, and says these words."""
    assert done.returncode == 1, done
    assert "try 1 failed" not in done.stdout, "a failure that no further try mends ends the pull"
    refused(noted, done, *words)


def refused(noted: Noted, done: Pulled, *words: str) -> None:
    """The script fails and says these words."""
    assert done.returncode == 1, done
    for word in words:
        assert word in done.stderr, done.stderr
    noted.evidence = f"exit 1: {done.stderr.strip().splitlines()[-1]}"


def came(noted: Noted, instance: Instance, name: str, done: Pulled) -> None:
    """The model is there, whole and marked."""
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr)
    marks = [path.read_text().strip() for path in (instance.folder / server_state.MARKS).iterdir()]
    assert name in marks
    _, _, tags = ask(instance.port, "GET", "/api/tags")
    assert server_state.canonical(name) in tags
    tries = done.stdout.count("; again in 5 s")
    noted.evidence = f"exit 0 after {tries + 1} {'try' if not tries else 'tries'}, blobs verified, mark written"


def test_a_model_is_pulled_verified_and_marked(host: Host, empty: Instance, model: str, noted: Noted) -> None:
    came(noted, empty, model, pull(host, model))


def test_a_model_that_is_there_is_verified_again(host: Host, empty: Instance, model: str, noted: Noted) -> None:
    assert pull(host, model).returncode == 0
    came(noted, empty, model, pull(host, model))


def test_a_damaged_blob_is_pulled_again(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    assert pull(host, model).returncode == 0
    manifest = json.loads((empty.folder / "models/manifests" / server_state.manifest_path(model)).read_text())
    blob = empty.folder / "models/blobs" / manifest["layers"][0]["digest"].replace(":", "-")
    with blob.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"CORRUPTED")
    done = pull(host, model, tries=2)
    assert f"blob {blob.name} is damaged; it is pulled again" in done.stdout
    came(noted, empty, model, done)


def test_a_registry_that_closes_once_costs_no_try(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-close", MODEL, "2000000 once")
    done = pull(host, model)
    came(noted, empty, model, done)
    assert any(ranged.startswith("bytes=") and not ranged.startswith("bytes=0") for *_, ranged in registry.requests())
    noted.evidence += "; the server went on at the byte where the connection broke"


def test_a_registry_that_always_closes_is_given_up_and_the_next_try_goes_on(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-close", MODEL, "1000000")
    done = pull(host, model, tries=2)
    assert "try 1 failed: max retries exceeded: unexpected EOF" in done.stdout
    came(noted, empty, model, done)
    noted.evidence += "; try 1: max retries exceeded: unexpected EOF"


def in_the_middle(registry: ModelRegistry, host: Host, name: str, act: Callable[[], object], tries: int) -> Pulled:
    """Pull slowly, and act as soon as bytes have come."""
    registry.fault("models-slow", MODEL, "1500000")
    command = pull_command(name, tries)
    with host.started(command) as process:
        assert process.stdin
        process.stdin.write(limit_text(command))
        process.stdin.close()
        process.stdin = None
        deadline = time.monotonic() + 30
        while not any(ranged for *_, ranged in registry.requests()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        act()
        said, complaint = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, said, complaint)


def test_a_server_that_restarts_in_the_middle_goes_on(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    done = in_the_middle(registry, host, model, lambda: empty.docker("restart"), tries=2)
    assert "try 1 failed: the connection to the server broke: curl: (" in done.stdout, done
    came(noted, empty, model, done)
    begun = "went on where try 1 ended" if resumed(registry) else "began the part anew, as this version does"
    noted.evidence += f"; try 2 {begun}"


def test_a_server_that_is_killed_in_the_middle_goes_on(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    def act() -> None:
        empty.kill()
        threading.Timer(2, empty.start).start()

    done = in_the_middle(registry, host, model, act, tries=2)
    assert "try 1 failed: the connection to the server broke: curl: (" in done.stdout, done
    came(noted, empty, model, done)


def test_a_pull_that_is_killed_goes_on_in_the_next_run(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    command = pull_command(model)
    registry.fault("models-slow", MODEL, "1500000")
    with host.started(command) as process:
        assert process.stdin
        process.stdin.write(limit_text(command))
        process.stdin.close()
        while not any(ranged for *_, ranged in registry.requests()):
            time.sleep(0.05)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGKILL)
    came(noted, empty, model, pull(host, model))
    assert resumed(registry), "the next run begins at the first byte"
    noted.evidence += "; the next run went on where the killed run ended"


def resumed(registry: ModelRegistry) -> bool:
    """Whether a request began behind the first byte of a blob."""
    starts = [ranged.removeprefix("bytes=").partition("-")[0] for *_, ranged in registry.requests() if ranged]
    return any(int(start) > 0 for start in starts)


def test_wrong_bytes_are_refused(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-lie", MODEL)
    done = pull(host, model, tries=2)
    assert "try 1 failed: digest mismatch, file must be downloaded again" in done.stdout
    refused(noted, done, "digest mismatch, file must be downloaded again")


def test_an_unknown_model_is_final(host: Host, empty: Instance, registry: ModelRegistry, noted: Noted) -> None:
    done = pull(host, registry.name("library/nope:latest"), tries=3)
    final(noted, done, "pull model manifest: file does not exist")


def test_a_missing_blob_is_final(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-blob", MODEL, "404")
    final(noted, pull(host, model, tries=3), "file does not exist")


def test_a_registry_without_redirects_is_final(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-plain", MODEL)
    done = pull(host, model, tries=3)
    final(noted, done, "no Location header in response", "redirects to blobs (307) at another host name")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("500", "pull model manifest: 500"),
        ("401", "realm host"),
        ("html", "invalid character '<' looking for beginning of value"),
    ],
)
def test_a_manifest_that_is_none_is_reported(
    fault: str, words: str, host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-manifest", MODEL, fault)
    refused(noted, pull(host, model), words)


def test_a_registry_that_is_not_there_is_reported(host: Host, empty: Instance, noted: Noted) -> None:
    refused(noted, pull(host, f"127.0.0.1:{free_port()}/library/small:latest"), "connect: connection refused")


def test_a_blob_that_is_an_error_is_reported(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-blob", MODEL, "500")
    refused(noted, pull(host, model), "context deadline exceeded")


def test_a_manifest_that_never_comes_is_given_up(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-manifest", MODEL, "silence")
    refused(noted, pull(host, model, stall=3), "nothing came for 3 s (models.stall) at: pulling manifest")


def test_a_blob_that_stalls_is_given_up(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-stall", MODEL, "1000000")
    refused(noted, pull(host, model, stall=5), "nothing came for 5 s (models.stall) at: pulling ")


def test_a_blob_that_never_begins_is_given_up(
    host: Host, empty: Instance, model: str, registry: ModelRegistry, noted: Noted
) -> None:
    registry.fault("models-blob", MODEL, "silence")
    refused(noted, pull(host, model, stall=5), "nothing came for 5 s (models.stall) at: pulling ")
