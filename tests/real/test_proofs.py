"""The proofs of verify and the reads before a pull, against a real server: time to stay, bytes of blobs, sizes.

SIMULATED: the container, by a stand-in for docker.
"""

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from provision.command import Answer
from provision.lab.model_registry import ModelRegistry
from provision.steps.base import Check
from provision.steps.ollama import loaded_proof, model_room, server_state
from provision.steps.system import content
from tests.real.instance import Host, Instance, ask
from tests.real.models import CHAT
from tests.real.noted import Noted
from tests.real.reading import read

MIDDLE = 190 << 20
"""A place in the weights, far behind the metadata."""


@dataclass(frozen=True)
class Live:
    """Runs the questions of a verification on a host, as testinfra does over SSH."""

    host: Host

    def run(self, text: str, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a line of shell with quoted words."""
        line = text % tuple(map(shlex.quote, words))
        environment = {**os.environ, **self.host.environment}
        return subprocess.run(
            ["sh", "-c", line], env=environment, capture_output=True, text=True, check=False, timeout=300
        )


def generate(instance: Instance, **body: object) -> tuple[int, dict[str, object]]:
    """Ask the chat model for an answer without a stream."""
    request = {"model": CHAT, "stream": False, **body}
    status, _, text = ask(instance.port, "POST", "/api/generate", request)
    return status, json.loads(text)


def checks(host: Host, instance: Instance) -> dict[str, Check]:
    """The proofs of the loaded chat model."""
    server = read(host, instance)
    return {check.name: check for check in loaded_proof.checks(Live(host), instance.name, server, [CHAT], "1 x CPU")}


def test_the_proof_of_an_answer_measures_its_speed(host: Host, ollama1: Instance, noted: Noted) -> None:
    generate(ollama1, keep_alive=-1)
    found = checks(host, ollama1)
    assert found[f"{CHAT}: generates a token"].passed
    (speed,) = [name for name in found if "tokens per second" in name]
    assert found[f"{CHAT}: stays loaded"].passed, found
    noted.evidence = f"{speed}; stays loaded for ever"


def test_the_keep_alive_of_a_client_is_found_and_set_back(host: Host, ollama1: Instance, noted: Noted) -> None:
    generate(ollama1, prompt="1", options={"num_predict": 1}, keep_alive="5m")
    check = checks(host, ollama1)[f"{CHAT}: stays loaded"]
    assert not check.passed
    said = str(check.got)
    command = said.partition("type on the host: ")[2]
    assert command.startswith("curl "), said
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=60)
    assert checks(host, ollama1)[f"{CHAT}: stays loaded"].passed, "the printed command sets the time back"
    noted.evidence = f"a client said 5m: {said.partition(';')[0]}; the printed command sets it back"


def test_zeros_in_a_blob_are_found_by_their_hash_alone(host: Host, known: Path, noted: Noted) -> None:
    instance = host.instance("damaged", known)
    manifest = json.loads((instance.folder / "models/manifests" / server_state.manifest_path(CHAT)).read_text())
    digest = next(layer["digest"] for layer in manifest["layers"] if layer["mediaType"].endswith(".model"))
    weights = instance.folder / "models/blobs" / digest.replace(":", "-")
    _own_copy_with_zeros(weights)
    instance.start()
    status, answer = generate(instance, prompt="The capital of France is", options={"num_predict": 8, "temperature": 0})
    server = read(host, instance)
    contents = list(server.contents(CHAT))
    done = host.run(content.command(contents, str(host.folder / "record")), limit=180)
    instance.stop()
    assert status == 200, "the server does not notice the damage"
    assert not server.damage(CHAT), "the size does not tell the damage"
    assert done.returncode == 0, done
    hashes = content.Hashes(contents)
    for line in done.stdout.splitlines():
        hashes.take(line)
    wrong = [file.path for file in contents if hashes.found.get(file.path) != file.sha256]
    assert wrong == [str(weights)]
    noted.evidence = f"the server answers 200 with {answer['response']!r}; the hash finds the blob"


def _own_copy_with_zeros(file: Path) -> None:
    """Replace a file, which is a link, by a copy with zeros in the middle."""
    copy = file.with_name(f".{file.name}")
    shutil.copy(file, copy)
    with copy.open("r+b") as data:
        data.seek(MIDDLE)
        data.write(bytes(40 << 20))
    copy.rename(file)


def test_the_size_of_a_model_is_known_before_the_pull(
    host: Host, empty: Instance, registry: ModelRegistry, noted: Noted
) -> None:
    size = 6 << 20
    registry.store.publish("library/sized:latest", [("model", os.urandom(size))], {"model_format": "gguf"})
    name = registry.name("library/sized:latest")
    filling = model_room.filling(name, empty.name, str(empty.folder), "", insecure=True, usual=None)

    def need() -> int | None:
        answers = [host.run(command) for command in (filling.size, filling.place)]
        room = filling.room(*(Answer(done.returncode, done.stdout.encode(), done.stderr.encode()) for done in answers))
        assert room.free > size
        return room.need

    before = need()
    status, _, text = ask(empty.port, "POST", "/api/pull", {"model": name, "insecure": True, "stream": False})
    assert status == 200, text
    after = need()
    assert before is not None
    assert size < before < size + 1000
    assert after == 0
    noted.evidence = f"{before} bytes before the real server's pull, {after} after it"
