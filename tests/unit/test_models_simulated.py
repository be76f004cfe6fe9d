"""The scripts of the models role and the test of an instance, run against the simulated Ollama of the lab."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from provision.command import Answer
from provision.lab.model_registry import ModelRegistry
from provision.lab.simulated import ollama_api, ollama_lab, ollama_pull, ollama_store
from provision.steps.facts import HostFacts
from provision.steps.instance.engine import proved_at
from provision.steps.ollama import readiness, server_state
from provision.steps.ollama.loaded_models import Resident
from provision.steps.ollama.model import Model
from tests.unit.test_lab_ollama import MODEL, ask, lines, server, weights

__all__ = ["server"]
EMBEDDING = "nomic-embed-text"
DOCKER = """#!/bin/sh
case "$*" in
  *PortBindings*) echo "$AT" ;;
  *Mounts*) echo "$FOLDER" ;;
  *Config.Env*) echo '["OLLAMA_KEEP_ALIVE=-1"]' ;;
  *State.Status*) echo running 0 ;;
  ps*) echo 0123456789ab ;;
  *State.StartedAt*) echo "$STARTED" ;;
  exec*) echo 'GPU 0: card (UUID: GPU-1)' ;;
  restart*) touch "$FOLDER/restarted"; while [ -e "$FOLDER/restarted" ]; do /bin/sleep 0.02; done ;;
  logs*) echo "${LOG:-the log}" ;;
esac
"""


@pytest.fixture
def host(server, tmp_path, monkeypatch):
    """The simulated server, with a docker that knows and restarts the server's container, and short sleeps."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"docker": DOCKER, "sleep": "#!/bin/sh\nexec /bin/sleep 0.05\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("AT", f"127.0.0.1:{server.port}")
    monkeypatch.setenv("FOLDER", str(tmp_path))
    monkeypatch.setenv("STARTED", "2026-11-29T21:51:45.955095378Z")
    monkeypatch.setenv("OLLAMA_KEEP_ALIVE", "-1")
    server.restarts = 0
    ended = threading.Event()
    restarter = threading.Thread(target=_restart, args=(server, tmp_path / "restarted", ended))
    restarter.start()
    yield server
    ended.set()
    restarter.join()


def _restart(server, asked: Path, ended: threading.Event) -> None:
    """Clear the memory of the server whenever the script asks for a restart."""
    while not ended.wait(0.02):
        if asked.exists():
            ollama_api.Handler.scheduler = ollama_api.Scheduler()
            ollama_api.Handler.answers = ollama_api.Answers(ollama_api.Handler.scheduler)
            server.restarts += 1
            asked.unlink()


def run(command, limit: float = 600):
    """Run a command as a host does."""
    words, text = command.words, command.stdin.decode()
    return subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=limit)


def pull(name: str = MODEL, tries: int = 1, stall: int = 600, have=None, insecure=False):
    step = Model(instance="ollama1", name=name, tries=tries, stall=stall, insecure=insecure)
    (command,) = step.commands(have, {"whole": True})
    return run(command)


def knobs(**values: float) -> None:
    (ollama_lab.LAB / "knobs.json").write_text(json.dumps(values))


def seconds_apart(text: str) -> str:
    """The text without the seconds of a silence, which are more on a busy machine."""
    return re.sub(r"came for \d+ s", "came for N s", text)


# -- pulls


def test_a_pull_succeeds_and_is_marked(host, tmp_path):
    done = pull()
    assert done.returncode == 0, done.stderr
    assert [path.read_text().strip() for path in tmp_path.glob(f"{server_state.MARKS}/*")] == [MODEL]


def test_a_stalled_pull_is_given_up_in_spite_of_frames(host):
    knobs(pull_seconds=0.2, stall_seconds=30)
    (host.faults / "ollama1.pull-stalls").touch()
    done = pull(tries=2, stall=1)
    assert done.returncode == 1
    assert "try 1 failed: nothing came for N s (models.stall) at: pulling " in seconds_apart(done.stdout)
    assert f"could not pull {MODEL}: nothing came for N s (models.stall) at: pulling " in seconds_apart(done.stderr)


def test_a_part_that_stalls_again_after_a_restart_is_given_up(host):
    knobs(pull_seconds=0.2, stall_seconds=0.7)
    (host.faults / "ollama1.pull-stalls").touch()
    done = pull(stall=3)
    assert done.returncode == 1
    assert "nothing came for N s (models.stall)" in seconds_apart(done.stderr)


def test_a_part_that_comes_slowly_after_a_restart_is_not_given_up(host):
    knobs(pull_seconds=8, stall_seconds=0.5)
    fault = host.faults / "ollama1.pull-stalls"
    fault.touch()

    def end_of_the_stall() -> None:
        before = 0
        for frame in lines(host, {"model": MODEL}):  # the second client of the same download
            if frame.get("completed", 0) < before:
                fault.unlink(missing_ok=True)
                knobs(pull_seconds=8, stall_seconds=60)  # a busy machine stalls the part no second time
            before = frame.get("completed", before)

    watcher = threading.Thread(target=end_of_the_stall)
    watcher.start()
    done = pull(stall=3)
    watcher.join()
    assert done.returncode == 0, (done.stdout, done.stderr)


def test_a_silent_library_is_given_up(host):
    (host.faults / "ollama1.pull-stalls").write_text("manifest")
    done = pull(stall=1)
    assert done.returncode == 1
    assert "nothing came for N s (models.stall) at: pulling manifest" in seconds_apart(done.stderr)


def test_a_library_that_closes_connections_is_reported(host):
    knobs(pull_seconds=2, retry_seconds=0.01)
    (host.faults / "ollama1.pull-closes").touch()
    assert "could not pull deepseek-r1:1.5b: max retries exceeded: unexpected EOF" in pull().stderr


def test_a_server_that_ends_during_a_pull_is_reported(host, monkeypatch):
    def broken(*_, **__):
        yield {"status": "pulling manifest"}
        yield {"status": "pulling 0123456789ab", "completed": 5, "total": 10}
        raise ConnectionResetError

    monkeypatch.setattr(ollama_pull, "pull", broken)
    said = pull().stderr
    assert said.startswith("ollama1 could not pull deepseek-r1:1.5b: the connection to the server broke: curl: (18) ")
    assert said.rstrip().endswith(" at: pulling 0123456789ab")


def test_an_answer_without_success_is_shown(host, monkeypatch):
    monkeypatch.setattr(ollama_pull, "pull", lambda *_, **__: (frame for frame in [{"status": "pulling manifest"}]))
    said = 'the server\'s answer ended without success: {"status":"pulling manifest"}'
    assert pull().stderr == f"ollama1 could not pull deepseek-r1:1.5b: {said}\n"


def test_the_error_of_the_server_is_shown_without_json_escapes(host):
    said = '500: \\ {"e":"<b>&amp"}'
    (host.faults / "ollama1.pull-fails").write_text(said)
    assert pull().stderr == f"ollama1 could not pull deepseek-r1:1.5b: {said}\n"


# -- pulls from a registry of one's own


@pytest.fixture
def registry(host, tmp_path):
    """A registry with the model, in front of the host's server."""
    manifest, blobs = ollama_store.published(MODEL)
    with ModelRegistry(tmp_path / "registry").serving() as running:
        for blob in blobs.values():
            running.store.add_blob(blob)
        running.store.put_manifest(f"library/{MODEL}", json.dumps(manifest).encode())
        yield running


def test_a_model_comes_from_a_registry_of_ones_own(registry):
    done = pull(registry.name(f"library/{MODEL}"), insecure=True)
    assert done.returncode == 0, (done.stdout, done.stderr)


FINAL = [
    ("models-plain", "", True, "redirects to blobs (307) at another host name"),
    ("models-manifest", "401", True, "the registry demands a login"),
    ("models-manifest", "404", True, "the registry has no model of this name and tag"),
    ("models-blob", "404", True, "the registry lacks a blob of the model"),
    ("models-slow", "", False, "the registry speaks plain http: set models.insecure: true"),
]


@pytest.mark.parametrize(("fault", "value", "insecure", "said"), FINAL)
def test_an_error_that_no_try_can_mend_ends_the_pull_with_advice(registry, fault, value, insecure, said):
    registry.fault(fault, value=value)
    done = pull(registry.name(f"library/{MODEL}"), tries=3, insecure=insecure)
    assert done.returncode == 1
    assert "try 1 failed" not in done.stdout
    assert said in done.stderr
    assert "\\" not in done.stderr


TRIED = [
    ("models-manifest", "500", "pull model manifest: 500: {"),
    ("models-manifest", "html", "a web page came in place of a manifest"),
    ("models-lie", "", "the registry sent other bytes than its manifest says"),
    ("models-close", "1000", "the registry broke off the blob in each of six tries"),
    ("models-blob", "500", "the registry refused a blob for 30 s"),
    ("models-stall", "", "nothing came for N s (models.stall) at: pulling "),
    ("models-blob", "silence", "nothing came for N s (models.stall) at: pulling "),
    ("models-manifest", "silence", "nothing came for N s (models.stall) at: pulling manifest"),
]


@pytest.mark.parametrize(("fault", "value", "said"), TRIED)
def test_an_error_of_a_moment_is_tried_again_and_said_in_words(registry, fault, value, said):
    knobs(retry_seconds=0.01, stall_seconds=5, **({"locate_seconds": 0.2} if "for 30 s" in said else {}))
    registry.fault(fault, value=value)
    done = pull(registry.name(f"library/{MODEL}"), tries=2, stall=1 if "models.stall" in said else 600, insecure=True)
    assert done.returncode == 1
    (failed,) = [line for line in done.stdout.splitlines() if line.startswith("try 1 failed: ")]
    assert said in seconds_apart(failed)
    assert said in seconds_apart(done.stderr)
    assert len(done.stderr.splitlines()) == 1, "one line, without words of the shell"
    registry.clear(fault)
    knobs()
    assert pull(registry.name(f"library/{MODEL}"), insecure=True).returncode == 0


# -- damaged blobs

SEEN = ("POST", "/api/generate", {"model": MODEL, "prompt": "hello", "stream": False})


@pytest.fixture
def damaged(host):
    """A server that has read a model with a damaged head of the weights."""
    assert pull().returncode == 0
    weights(host).write_bytes(bytes(2 << 20))
    assert "does not support generate" in ask(host, *SEEN)[2]
    return host


def load() -> subprocess.CompletedProcess[str]:
    step = Resident(instance="ollama1", models=(MODEL,))
    (command,) = step.commands({"loaded": [], "on_cpu": []}, {"loaded": [MODEL], "on_cpu": []})
    return run(command)


def test_an_instance_restarts_after_the_repair_of_a_blob_and_answers(damaged):
    have = {"whole": False, "damaged": weights(damaged).name}
    step = Model(instance="ollama1", name=MODEL)
    done = [run(command) for command in step.commands(have, step.want(HostFacts(), have))]
    assert [one.returncode for one in done] == [0, 0], done
    assert damaged.restarts == 1
    assert load().returncode == 0
    assert run(readiness.command("ollama1", (MODEL,))).returncode == 0


def test_a_pull_that_repairs_a_blob_records_the_running_servers(damaged, tmp_path, monkeypatch):
    assert pull(tries=2).returncode == 0
    assert damaged.restarts == 0
    assert load().returncode == 1, "the server still refuses the model"
    (mark,) = tmp_path.glob(f"{server_state.MARKS}/*{server_state.MENDED}")
    assert mark.name == server_state.mark(MODEL) + server_state.MENDED
    assert mark.read_text() == "2026-11-29T21:51:45.955095378Z\n"
    (delete,) = Model(instance="ollama1", name=MODEL).commands({"whole": True}, None)
    assert run(delete).returncode == 0
    assert not mark.parent.exists(), "a deleted model leaves no mark"


def test_a_pull_of_whole_blobs_records_no_server(host, tmp_path):
    assert pull().returncode == 0
    assert not list(tmp_path.glob(f"{server_state.MARKS}/*{server_state.MENDED}"))


# -- servers without a card


@pytest.mark.parametrize(
    ("state", "log", "restarts"),
    [
        ({"off_cards": [MODEL]}, "the start is gone", 1),
        ({"on_cpu": [MODEL]}, 'msg="inference compute" id=cpu library=cpu', 1),
        ({"on_cpu": [MODEL]}, 'msg="inference compute" id=0 library=Vulkan', 1),
        ({"on_cpu": [MODEL]}, 'msg="inference compute" id=GPU-1 library=CUDA', 0),
    ],
    ids=["on no card", "no card in the log", "Vulkan in the log", "partly on the card"],
)
def test_a_server_without_a_card_is_restarted_whatever_is_left_of_its_log(host, monkeypatch, state, log, restarts):
    monkeypatch.setenv("LOG", log)
    have = {"enough": True, "on_cpu": [], "off_cards": [], "loaded": [MODEL], "keeps": True, **state}
    step = Resident(instance="ollama1", models=(MODEL,))
    refresh, _ = step.commands(have, step.want(HostFacts(), have))
    done = run(refresh)
    assert done.returncode == 0, done.stderr
    assert host.restarts == restarts
    assert ("ollama1 uses no card; restarting it" in done.stdout) == bool(restarts)


# -- models that only embed


def test_an_instance_with_an_embedding_model_first_passes_the_test(host):
    assert pull(EMBEDDING).returncode == 0
    done = run(readiness.command("ollama1", (EMBEDDING, MODEL)))
    assert done.returncode == 0, done.stderr
    assert proved_at(_answer(done)) == f"127.0.0.1:{host.port}"
    (running,) = json.loads(ask(host, "GET", "/api/ps")[2])["models"]
    assert running["name"] == f"{EMBEDDING}:latest"


def test_an_instance_that_does_not_embed_fails_the_test(host):
    assert pull(EMBEDDING).returncode == 0
    weights(host).write_bytes(b"cut")
    done = run(readiness.command("ollama1", (EMBEDDING,)))
    assert done.returncode == 1
    assert f"ollama1 does not embed with {EMBEDDING} (status 500): " in done.stderr
    assert "invalid file magic" in done.stderr


def _answer(done):
    return Answer(done.returncode, done.stdout.encode(), done.stderr.encode())
