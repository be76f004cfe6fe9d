"""The models role: the scripts against a server that answers as Ollama does, and the names of models."""

import base64
import dataclasses
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.command import Run
from provision.plan import role_interface
from provision.roles import models as role
from provision.steps.base import Answer, Content, converged
from provision.steps.facts import HostFacts
from provision.steps.nvidia_smi import Card
from provision.steps.ollama import server_state
from provision.steps.ollama.loaded_models import Resident
from provision.steps.ollama.loaded_proof import QUESTION
from provision.steps.ollama.model import Model, OwnedModels, human, pull_progress
from provision.steps.speed import Speed
from provision.steps.system import content

DOCKER = """#!/bin/sh
case "$*" in
  *PortBindings*) echo "$AT" ;;
  *Mounts*) echo "$FOLDER" ;;
  *State.Status*) echo "${STATUS:-running}" ;;
  start*) [ -z "${NO_START:-}" ] || { echo "could not select device driver" >&2; exit 1; } ;;
  *StartedAt*) echo 2026-01-01T00:00:00Z; exit "${GONE:-0}" ;;
  ps*) printf '%s\n' 1 2 ;;
  logs*) echo "the log" ;;
  exec*nvidia-smi*) echo "${CARDS:-}"; exit "${SMI:-0}" ;;
esac
"""
BLOB = b"weights"
NAME = f"sha256-{hashlib.sha256(BLOB).hexdigest()}"
MANIFEST = json.dumps({"config": {}, "layers": [{"digest": NAME.replace("-", ":"), "size": len(BLOB)}]})
STREAM = [{"response": "yes", "done": False}, {"response": "", "done": True}]
SUCCESS = [{"status": "pulling manifest"}, {"status": "writing manifest"}, {"status": "success"}]


class Server:
    """Serves the part of the API that the scripts use.

    Args:
        folder: the folder of the models.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: list[tuple[int, list[dict[str, Any]]]] = []
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.damaged = 0
        self.loaded: list[dict[str, Any]] = []
        self.names: list[str] | None = None
        """The models that the server lists; it generates with these alone. None for any model, and no list."""
        self.lists = True
        """Whether the server lists its models at all."""
        handler = type("Handler", (_Handler,), {"server_": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def write(self) -> None:
        """Write manifest and blob; as long as `damaged` counts, the blob is damaged."""
        blob, manifest = (
            self.folder / "models/blobs" / NAME,
            self.folder / "models/manifests" / server_state.manifest_path("m:1"),
        )
        for path in (blob, manifest):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            blob.write_bytes(b"rubbish" if self.damaged > 0 else BLOB)
            self.damaged -= 1
        manifest.write_text(MANIFEST)


class _Handler(BaseHTTPRequestHandler):
    server_: Server

    def do_GET(self) -> None:
        names = self.server_.names
        if self.path == "/api/tags" and not self.server_.lists:
            self._say(500, [{}])
        elif self.path == "/api/tags" and names is not None:
            entries = [{"name": name, "model": name, "details": {"parent_model": ""}} for name in names]
            self._say(200, [{"models": entries}])
        else:
            self._say(200, [{"models": self.server_.loaded}] if self.path == "/api/ps" else [{"version": "0"}])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server_.asked.append((self.command, self.path, body))
        if self.server_.names is not None:
            there = body.get("model") in self.server_.names
            self.server_.answers = [(200, STREAM) if there else (404, [{"error": "model not found"}])]
        status, frames = self.server_.answers.pop(0) if self.server_.answers else (200, SUCCESS)
        if frames == SUCCESS:
            self.server_.write()
        self._say(status, frames)

    def do_DELETE(self) -> None:
        self.do_POST()

    def _say(self, status: int, frames: list[dict[str, Any]]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write("".join(json.dumps(frame, separators=(",", ":")) + "\n" for frame in frames).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server(tmp_path / "store")
    found.folder.mkdir()
    for name, text in {"docker": DOCKER, "sleep": "#!/bin/sh\nexec /bin/sleep 0.05\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("AT", f"127.0.0.1:{found.http.server_address[1]}")
    monkeypatch.setenv("FOLDER", str(found.folder))
    yield found
    found.http.shutdown()


def run(command: Any) -> subprocess.CompletedProcess[str]:
    assert isinstance(command, Run)
    return subprocess.run(command.words, input=command.stdin.decode(), capture_output=True, text=True, check=False)


def pull(tries: int = 3) -> subprocess.CompletedProcess[str]:
    return run(Model(instance="ollama1", name="m:1", tries=tries).commands(None, {"whole": True})[0])


def marks(server: Server) -> list[str]:
    return [path.read_text().strip() for path in server.folder.glob(f"{server_state.MARKS}/*")]


def test_a_successful_pull_is_marked(server: Server) -> None:
    done = pull()
    assert done.returncode == 0, done.stderr
    assert marks(server) == ["m:1"]
    assert server.asked == [("POST", "/api/pull", {"model": "m:1", "stream": True})]


def test_an_error_after_status_200_is_a_failure(server: Server) -> None:
    server.answers = [(200, [{"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}])]
    done = pull()
    assert done.returncode == 1
    assert "ollama1 could not pull m:1: pull model manifest: file does not exist" in done.stderr
    assert len(server.asked) == 1, "another try mends no wrong name"
    assert not marks(server)


def test_a_pull_is_resumed(server: Server) -> None:
    server.answers = [(200, [{"error": "max retries exceeded: x"}]), (200, [{"status": "pulling abc"}])]
    done = pull()
    assert done.returncode == 0, done.stderr
    assert [asked[1] for asked in server.asked] == ["/api/pull"] * 3
    assert "try 1 failed: max retries exceeded: x" in done.stdout


def test_tries_are_bounded(server: Server) -> None:
    server.answers = [(200, [{"error": "max retries exceeded: x"}])] * 9
    assert pull(tries=2).returncode == 1
    assert len(server.asked) == 2


def test_a_damaged_blob_is_pulled_again(server: Server) -> None:
    server.damaged = 1
    done = pull()
    assert done.returncode == 0, done.stderr
    assert f"blob {NAME} is damaged" in done.stdout
    assert (server.folder / "models/blobs" / NAME).read_bytes() == BLOB


def test_a_pull_that_only_finds_damage_is_no_try(server: Server) -> None:
    server.damaged = 1
    done = pull(tries=1)
    assert done.returncode == 0, done.stderr
    assert (server.folder / "models/blobs" / NAME).read_bytes() == BLOB
    server.damaged = 9
    (server.folder / "models/blobs" / NAME).unlink()
    done = pull(tries=1)
    assert done.returncode == 1, "a registry that sends damaged blobs over and over"
    assert "ollama1 could not pull m:1: a blob was damaged" in done.stderr


@pytest.mark.parametrize("of_model", [True, False])
def test_a_blob_known_as_damaged_goes_before_the_pull(server: Server, tmp_path: Path, of_model: bool) -> None:
    """Only blobs of the model, and only as long as nobody has written to them."""
    server.write()
    blob = server.folder / "models/blobs" / (NAME if of_model else f"sha256-{'c' * 64}")
    blob.write_bytes(b"rubbish")
    record = tmp_path / "state/damaged"
    hashed = run(content.command([Content(str(blob), "a" * 64, 7, blob.name)], str(record)))
    assert hashed.returncode == 0, hashed.stderr
    have = {"whole": False, "damaged": blob.name}
    command = Model(instance="ollama1", name="m:1", tries=1).commands(have, {"whole": True, "stale": False})[0]
    assert isinstance(command, Run)
    stdin = command.stdin.replace(content.RECORD.encode(), str(record).encode())
    done = run(dataclasses.replace(command, stdin=stdin))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is damaged; it is pulled again") == of_model
    assert len(server.asked) == 1, "the pull brings the blob at once"
    assert blob.read_bytes() == (BLOB if of_model else b"rubbish")


def test_a_container_removed_during_a_repair_does_not_end_the_pull(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GONE", "1")
    server.damaged = 1
    done = pull()
    assert done.returncode == 0, done.stderr
    assert (server.folder / "models/blobs" / NAME).read_bytes() == BLOB
    assert sorted(marks(server)) == ["2026-01-01T00:00:00Z", "m:1"]


def test_delete_removes_the_mark(server: Server) -> None:
    pull()
    server.answers = [(200, [{}]), (200, [{}])]
    done = run(Model(instance="ollama1", name="m:1").commands({"whole": True}, None)[0])
    assert done.returncode == 0, done.stderr
    assert [asked[:2] for asked in server.asked[1:]] == [("POST", "/api/generate"), ("DELETE", "/api/delete")]
    assert not marks(server)


def delete() -> subprocess.CompletedProcess[str]:
    return run(Model(instance="ollama1", name="m:1").commands({"whole": True}, None)[0])


def manifest(server: Server) -> Path:
    return server.folder / "models/manifests" / server_state.manifest_path("m:1")


def test_delete_from_a_failing_server_removes_the_manifest(server: Server) -> None:
    pull()
    server.answers = [(500, [{}])] * 100
    done = delete()
    assert done.returncode == 0, done.stderr
    assert "it answered 500" in done.stdout
    assert (marks(server), manifest(server).exists()) == ([], False)


def test_delete_from_a_server_that_does_not_start(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pull()
    monkeypatch.setenv("STATUS", "exited")
    monkeypatch.setenv("NO_START", "1")
    done = delete()
    assert done.returncode == 0, done.stderr
    assert len(server.asked) == 1, "the server got only the pull"
    assert (marks(server), manifest(server).exists()) == ([], False)


def test_delete_from_a_server_that_hangs_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pull()
    monkeypatch.setenv("AT", "127.0.0.1:1")
    curl = server.folder.parent / "curl"
    curl.write_text("#!/bin/sh\nprintf 000; exit 28\n")
    curl.chmod(0o755)
    done = delete()
    assert done.returncode == 0, done.stderr
    assert (marks(server), manifest(server).exists()) == ([], False)


def test_delete_leaves_other_manifests_to_the_server(server: Server) -> None:
    pull()
    server.answers = [(200, [{}]), (404, [{}])]
    assert delete().returncode == 0
    assert manifest(server).exists(), "a server that answers is trusted"


def load(*models: str) -> subprocess.CompletedProcess[str]:
    step = Resident(instance="ollama1", models=models)
    return run(step.commands({"loaded": [], "on_cpu": []}, {"loaded": list(models), "on_cpu": []})[0])


def test_load(server: Server) -> None:
    server.answers = [(200, [{"done": True, "done_reason": "load"}])]
    server.loaded = [{"name": "m:1", "size": 10, "size_vram": 10}]
    assert load("m:1").returncode == 0
    assert server.asked == [("POST", "/api/generate", {"model": "m:1", "keep_alive": -1, "stream": False})]


def test_an_embedding_model_is_loaded_by_an_embedding_request(server: Server) -> None:
    server.answers = [(400, [{"error": '"e" does not support generate'}]), (200, [{"embeddings": [[1]]}])]
    assert load("e").returncode == 0
    assert [asked[1] for asked in server.asked] == ["/api/generate", "/api/embed"]


def test_a_failed_load_reports_the_reason(server: Server) -> None:
    server.answers = [(500, [{"error": "llama-server process has terminated"}])]
    done = load("m:1")
    assert done.returncode == 1
    assert "ollama1 could not load m:1: llama-server process has terminated" in done.stderr


def test_a_model_on_the_cpu_is_a_failure(server: Server) -> None:
    server.answers = [(200, [{"done": True}])]
    server.loaded = [{"name": "a", "size": 9, "size_vram": 9}, {"name": "m:1", "size": 10, "size_vram": 4}]
    done = load("m:1")
    assert done.returncode == 1
    assert "only 4 of 10 bytes" in done.stderr


# -- loaded models


class Live:
    """A host in the words of testinfra, with an instance whose server loads a model at the first request.

    Args:
        keep_alive: the value in the environment of the container.
        answer: the server's answer to a question.
        quiet: whether other requests are under way, as the host says.
    """

    def __init__(self, keep_alive: str, answer: str = "", quiet: str = "yes") -> None:
        self.keep_alive, self.quiet = keep_alive, quiet
        self.answer = answer or json.dumps(ANSWER)
        self.loaded: list[dict[str, Any]] = []
        self.backend = SimpleNamespace(
            known={}, facts=HostFacts(cards=(Card(0, "GPU-1", "NVIDIA L40S", "590", 8.9, 1),))
        )

    def run(self, command: str, *words: str) -> SimpleNamespace:
        if QUESTION in words:
            self.loaded = self.loaded or [{"name": "m:1", "size": 10, "size_vram": 4}]
            assert "keep_alive" not in f"{words[3:]}", "with keep_alive the model would stay loaded for ever"
            said = {"quiet": self.quiet, "answer": self.answer, "loaded": json.dumps({"models": self.loaded})}
            lines = (f"{key} {base64.b64encode(text.encode()).decode()}\n" for key, text in said.items())
            return SimpleNamespace(rc=0, stdout="".join(lines), stderr="")
        return SimpleNamespace(rc=0, stdout=self.listed(), stderr="")

    def listed(self) -> str:
        """Return the output of the read of Docker."""
        told = [f"OLLAMA_KEEP_ALIVE={self.keep_alive}", "OLLAMA_MAX_LOADED_MODELS=1"]
        place = {"ports": {"11434/tcp": [{"HostIp": "127.0.0.1", "HostPort": "3001"}]}, "mounts": []}
        labels = {"provision.instance": "ollama1", "provision.managed": "1"}
        container = {"id": "1", "name": "/ollama1", "status": "running", "labels": labels, "env": told, **place}
        container["requests"] = [{"Count": 0, "DeviceIDs": ["GPU-1"]}]
        body = json.dumps({"models": self.loaded})
        api = base64.b64encode(f"\n0 200 \n{body}\n0 200 \n{body}\n0 200 \n".encode()).decode()
        sections = ("images", "volumes", "pulled", "listening", "files", "probes")
        heads = [f"# {name}" for name in sections]
        return "\n".join(["# containers", json.dumps(container), *heads, f"1 api {api}", "# end", ""])


ANSWER = {"created_at": "2026-11-29T22:00:00.123456789Z", "eval_count": 16, "eval_duration": 250_000_000}
UNASKED = "not asked: whether its processes hold 0 MiB of its cards, as the server says: "
WELL = {"m:1: generates a token": True, "m:1: bytes on the cards": True}
WELL |= {f"{UNASKED}nvidia-smi of the host lists no processes": True}
SPEED = "m:1: made 64.0 tokens per second"


def loaded(**more: Any) -> list[dict[str, Any]]:
    """Return the models of `/api/ps`."""
    return [{"name": "m:1", "size": 10, "size_vram": 10, **more}]


def proofs(live: Live) -> dict[str, bool]:
    return {check.name: check.passed for check in Resident(instance="ollama1", models=("m:1", "n:1")).check(live)}


def test_verify_asks_no_unloaded_model_because_a_question_would_load_it() -> None:
    [(name, passed)] = proofs(Live("5m")).items()
    assert (name, passed) == ("not asked: ollama1 has no model loaded now, and a question would load one", True)


def test_verify_asks_a_loaded_model_for_tokens() -> None:
    live = Live("5m")
    live.loaded = loaded()
    assert proofs(live) == {**WELL, SPEED: True}
    live = Live("5m", answer="503")
    live.loaded = loaded()
    assert proofs(live) == {**WELL, "m:1: generates a token": False}


@pytest.mark.parametrize(
    ("live", "reason"),
    [
        (Live("5m", quiet="other requests were under way"), "other requests were under way"),
        (Live("5m", answer=json.dumps({**ANSWER, "eval_count": 3})), "the answer is shorter than 8 tokens"),
        (Live("5m", quiet=""), "nothing was said"),
    ],
)
def test_a_speed_that_says_nothing_is_not_compared(live: Live, reason: str) -> None:
    live.loaded = loaded()
    assert proofs(live) == {**WELL, f"not asked: the speed of m:1: {reason}": True}


def test_the_speed_is_compared_by_model_and_cards() -> None:
    live = Live("-1")
    live.loaded = loaded()
    step = Resident(instance="ollama1", models=("m:1", "n:1"))
    (measured,) = [check.speed for check in step.check(live) if check.speed]
    assert measured == Speed("m:1 on NVIDIA L40S", 64.0)


STAYS = "m:1: stays loaded"
GENERATE = "http://127.0.0.1:3001/api/generate"
RESTORE = "by the keep_alive of a request; to set it back, type on the host: curl --noproxy '*' -d"


@pytest.mark.parametrize(
    ("keep_alive", "until", "got"),
    [
        ("-1", "2319-03-11T21:55:57.465203608Z", "for ever"),
        (
            "-1",
            "2026-11-29T22:08:43.477764702Z",
            f"""until 2026-11-29T22:08:43, {RESTORE} '{{"model": "m:1", "keep_alive": -1}}' {GENERATE}""",
        ),
        ("5m", "2026-11-29T22:05:00.5Z", "300 s after a request"),
        (
            "5m",
            "2026-11-29T22:00:02Z",
            f"""2 s after a request, {RESTORE} '{{"model": "m:1", "keep_alive": "5m"}}' {GENERATE}""",
        ),
        (
            "5m",
            "2319-03-11T21:55:57.465203608Z",
            f"""for ever, {RESTORE} '{{"model": "m:1", "keep_alive": "5m"}}' {GENERATE}""",
        ),
        ("-1", "0001-01-01T00:00:00Z", None),
        ("5m", "no date", None),
        ("5m", "2026-99-99T22:00:02Z", None),
    ],
)
def test_verify_compares_how_long_a_model_stays_loaded(keep_alive: str, until: str, got: str | None) -> None:
    live = Live(keep_alive)
    live.loaded = loaded(expires_at=until)
    step = Resident(instance="ollama1", models=("m:1", "n:1"))
    found = {check.name: (check.got, check.passed) for check in step.check(live)}
    assert found.get(STAYS) == (None if got is None else (got, RESTORE not in got))


def test_how_long_an_undeclared_model_stays_does_not_matter() -> None:
    live = Live("-1")
    live.loaded = [*loaded(), {"name": "by-hand:1", "size_vram": 1, "expires_at": "2026-11-29T22:08:43Z"}]
    step = Resident(instance="ollama1", models=("m:1",))
    have = step.fact().parse(Answer(0, live.listed().encode(), b""))
    assert step.note(HostFacts(), have) == ""
    assert [check.name for check in step.check(live) if "stays loaded" in check.name] == []


def test_the_command_that_sets_the_time_of_an_embedding_model_back_embeds() -> None:
    live = Live("-1", answer='{"embeddings":[[1]]}')
    live.loaded = loaded(expires_at="2026-11-29T22:08:43.477764702Z")
    found = {check.name: check.got for check in Resident(instance="ollama1", models=("m:1",)).check(live)}
    assert found[STAYS].endswith(
        """{"model": "m:1", "keep_alive": -1, "input": "."}' http://127.0.0.1:3001/api/embed"""
    )


def test_the_plan_notes_a_model_that_does_not_stay_and_changes_nothing() -> None:
    live = Live("-1")
    live.loaded = loaded(expires_at="2026-11-29T22:08:43.477764702Z")
    step = Resident(instance="ollama1", models=("m:1",))
    have = step.fact().parse(Answer(0, live.listed().encode(), b""))
    assert converged(have, step.want(HostFacts(), have))
    said = "m:1 stays loaded on ollama1 until 2026-11-29T22:08:43, by the keep_alive of a request (docs/balancer.md)"
    assert step.note(HostFacts(), have) == said
    assert step.note(HostFacts()) == ""


def test_verify_misses_a_model_that_should_stay_loaded() -> None:
    assert proofs(Live("-1")) == {"models loaded": False}


def test_the_loaded_models_may_change_between_two_reads() -> None:
    step = Resident(instance="ollama1", models=("m:1", "n:1"))
    live = Live("-1")
    states = []
    for name in ("m:1", "n:1"):
        live.loaded = [{"name": name, "size": 10, "size_vram": 10}]
        states.append(step.fact().parse(Answer(0, live.listed().encode(), b"")))
    assert states[0] != states[1]
    want = step.want(HostFacts(), states[0])
    assert [converged(state, want) for state in states] == [True, True]


# -- names and lines


@pytest.mark.parametrize(
    ("name", "short", "path"),
    [
        ("deepseek-r1:32b", "deepseek-r1:32b", "registry.ollama.ai/library/deepseek-r1/32b"),
        ("a", "a:latest", "registry.ollama.ai/library/a/latest"),
        ("library/a", "a:latest", "registry.ollama.ai/library/a/latest"),
        ("me/a:x", "me/a:x", "registry.ollama.ai/me/a/x"),
        ("hf.co/o/r:Q4", "hf.co/o/r:Q4", "hf.co/o/r/Q4"),
        ("host:5000/s/m", "host:5000/s/m:latest", "host:5000/s/m/latest"),
    ],
)
def test_names(name: str, short: str, path: str) -> None:
    assert (server_state.canonical(name), server_state.manifest_path(name)) == (short, path)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (
            '{"status":"pulling 6150cb382311","digest":"sha256:6150","total":19851335552,"completed":8943100998}',
            "pulling 6150cb382311 45% of 19 GB",
        ),
        ('{"status":"pulling manifest"}', "pulling manifest"),
        ('{"error":"no space left"}', "no space left"),
        ('{"status":', None),
        ("{}", None),
        ('{"status":"x","total":"many"}', None),
        ('{"status":"x","total":1e999}', None),
        ('{"status":' + "[" * 100_000, None),
        ("try 1 failed: x", "try 1 failed: x"),
        (f"verifying sha256-{'a' * 64}", f"verifying sha256-{'a' * 12}"),
        ("", None),
    ],
)
def test_progress(line: str, shown: str | None) -> None:
    assert pull_progress(line) == shown


@given(st.text())
def test_progress_takes_anything(line: str) -> None:
    assert pull_progress(line) is None or isinstance(pull_progress(line), str)


def test_human() -> None:
    assert [human(size) for size in (19851337640, 1117322599, 274302450, 512)] == [
        "19 GB",
        "1.1 GB",
        "274 MB",
        "512 bytes",
    ]


def test_stall_is_bounded() -> None:
    assert [path for path, _ in role.Settings(stall="-1").problems()] == [("stall",)]
    assert not list(role.Settings().problems())


def test_the_models_of_a_leaving_instance_go_first_and_superseded_models_go_last() -> None:
    leaving, staying = (finder for finder in role.OWNED if isinstance(finder, OwnedModels))
    found = {"model:ollama1/a": {}, "model:ollama2/a": {}}
    declared = {"container:ollama1", "model:ollama1/b"}
    assert [(one.last, [i for i in found if i not in one.kept(found, declared)]) for one in (leaving, staying)] == [
        (False, ["model:ollama2/a"]),
        (True, ["model:ollama1/a"]),
    ]
    assert leaving.step("model:ollama2/a").disrupts({}, None) == {"ollama2"}
    assert staying.step("model:ollama1/a").disrupts({}, None) == frozenset()


# -- registries of one's own


def advice(tmp_path: Path, models: str, more: str = "") -> list[str]:
    path = tmp_path / "i.yaml"
    ollama = f"{{models: [{models}], instances: [{{gpus: [0]}}]}}"
    settings = ", ".join(filter(None, ["nginx: {accept_known_vulnerabilities: true}", more]))
    path.write_text(f"all: {{vars: {{{settings}}}, children: {{gpu: {{hosts: {{gpu-01: {{ollama: {ollama}}}}}}}}}}}\n")
    return list(role_interface.load(str(path)).advice.get("models", ()))


def test_the_check_says_how_a_registry_has_to_answer(tmp_path: Path) -> None:
    (text,) = advice(tmp_path, '"10.0.0.1:5000/library/a", "10.0.0.1:5000/library/b:1", c')
    assert text.startswith("ollama.models: 10.0.0.1:5000, from which 10.0.0.1:5000/library/b:1 comes, is a registry")
    assert "redirects to blobs (307) at another host name" in text


@pytest.mark.parametrize(
    "more",
    ['docker: {registry_mirrors: ["http://10.0.0.1:5000"]}', 'ollama: {image: "10.0.0.1:5000/ollama/ollama:0.34.4"}'],
)
def test_the_check_knows_a_registry_of_images(tmp_path: Path, more: str) -> None:
    (text,) = advice(tmp_path, '"10.0.0.1:5000/library/a"', more)
    assert "serves Docker images here" in text


def test_the_check_says_that_insecure_has_no_effect(tmp_path: Path) -> None:
    assert not advice(tmp_path, '"hf.co/space/a", b')
    (text,) = advice(tmp_path, '"hf.co/space/a", b', "models: {insecure: true}")
    assert text.startswith("models.insecure: true has no effect")


def test_only_registries_of_ones_own_are_asked_over_plain_http(tmp_path: Path) -> None:
    path = tmp_path / "i.yaml"
    ollama = '{models: ["10.0.0.1:5000/library/a", "hf.co/space/b", c], instances: [{gpus: [0]}]}'
    everywhere = "{models: {insecure: true}, nginx: {accept_known_vulnerabilities: true}}"
    path.write_text(f"all: {{vars: {everywhere}, children: {{gpu: {{hosts: {{gpu-01: {{ollama: {ollama}}}}}}}}}}}\n")
    inventory = role_interface.load(str(path))
    steps = role.steps(inventory.hosts[0], inventory)
    assert [step.insecure for step in steps if isinstance(step, Model)] == [True, False, False]
