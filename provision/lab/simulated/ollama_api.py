"""The simulated server's HTTP side: routes, streaming, and the end of a request whose client leaves."""

import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from . import ollama_openai as openai
from . import ollama_store as store
from .ollama_answers import Answers, RefusedError, known, now
from .ollama_lab import cards, driver, fault, log
from .ollama_pull import PullError, pull
from .ollama_runner import GoneError, Loaded, Scheduler, default_context

_NDJSON = "application/x-ndjson"
_JSON = "application/json; charset=utf-8"
_LOCAL = {"localhost", "127.0.0.1", "0.0.0.0", "[::1]"}  # noqa: S104


class Handler(BaseHTTPRequestHandler):
    """One connection. Class attributes are set by `serve`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as Go's net package does: else a token can wait 40 ms for an acknowledgement
    scheduler: Scheduler
    answers: Answers
    version: str
    started: bool

    def do_GET(self) -> None:
        self._route("GET")

    def do_HEAD(self) -> None:
        self._route("HEAD")

    def do_POST(self) -> None:
        self._route("POST")

    def do_DELETE(self) -> None:
        self._route("DELETE")

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        stamp = datetime.now(UTC).strftime("%Y/%m/%d - %H:%M:%S")
        client = str(self.client_address[0])
        print(f'[GIN] {stamp} | {int(code)} | {client} | {self.command} "{self.path}"', file=sys.stderr, flush=True)

    # -- routing

    def _route(self, method: str) -> None:
        self.started = False
        path = urlsplit(self.path).path
        try:
            body = self._body()
            self._check_faults()
            self._check_origin()
            self._dispatch(method, path, body)
        except RefusedError as refusal:
            self._refuse(path, refusal)
        except (GoneError, BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _dispatch(self, method: str, path: str, body: dict[str, Any]) -> None:
        routes: dict[tuple[str, str], Callable[[dict[str, Any]], None]] = {
            ("GET", "/"): lambda _: self._send(200, b"Ollama is running", "text/plain; charset=utf-8"),
            ("GET", "/api/version"): lambda _: self._json({"version": self.version}),
            ("GET", "/api/tags"): lambda _: self._json({"models": [_listed(model) for model in store.everything()]}),
            ("GET", "/api/ps"): lambda _: self._json(
                {"models": [_running(model) for model in self.scheduler.running()]}
            ),
            ("POST", "/api/show"): lambda body: self._json(_shown(known(body))),
            ("POST", "/api/pull"): self._pull,
            ("DELETE", "/api/delete"): self._delete,
            ("POST", "/api/copy"): self._copy,
            ("POST", "/api/generate"): lambda body: self._native(body, chat=False),
            ("POST", "/api/chat"): lambda body: self._native(body, chat=True),
            ("POST", "/api/embed"): lambda body: self._json(self.answers.embed(body, self._alive)),
            ("POST", "/v1/chat/completions"): lambda body: self._openai(body, chat=True),
            ("POST", "/v1/completions"): lambda body: self._openai(body, chat=False),
            ("POST", "/v1/embeddings"): self._openai_embeddings,
            ("GET", "/v1/models"): lambda _: self._json(
                {"object": "list", "data": list(map(_openai_model, store.everything()))}
            ),
        }
        heads = {"/", "/api/version", "/api/tags"}
        answer = routes.get(("GET" if method == "HEAD" and path in heads else method, path))
        if answer:
            if method in {"POST", "DELETE"} and path.startswith("/api/") and not self._length():
                raise RefusedError(400, "missing request body")
            answer(body)
        elif method == "GET" and path.startswith("/v1/models/"):
            self._json(_openai_model(known({"model": path.removeprefix("/v1/models/")})))
        elif path.startswith("/debug/pprof"):
            self._send(200, b"simulated: profiles would be here\n", "text/plain; charset=utf-8")
        elif any(path == known_path for _, known_path in routes):
            self._send(405, b"405 method not allowed", "text/plain")
        else:
            self._send(404, b"404 page not found", "text/plain")

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _body(self) -> dict[str, Any]:
        data = self.rfile.read(self._length())
        if not data:
            return {}
        try:
            body = json.loads(data)
        except ValueError as error:
            raise RefusedError(400, f"invalid request body: {error}") from error
        if not isinstance(body, dict):
            raise RefusedError(400, "invalid request body: not an object")
        return body

    def _check_faults(self) -> None:
        while fault("hang") is not None:
            if not self._alive():
                raise GoneError
            time.sleep(0.2)
        if fault("answer-503") is not None:
            raise RefusedError(503, "server busy, please try again.  maximum pending requests exceeded")

    def _check_origin(self) -> None:
        origin = self.headers.get("Origin")
        allowed = [word.strip() for word in os.environ.get("OLLAMA_ORIGINS", "").split(",")]
        if origin and "*" not in allowed and origin not in allowed and urlsplit(origin).hostname not in _LOCAL:
            raise RefusedError(403, "")

    # -- answering

    def _alive(self) -> bool:
        """Whether the client is still connected."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return not readable or self.connection.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    def _head(self, status: int, kind: str, length: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Simulated", "provision-lab")
        if length is None and self.request_version == "HTTP/1.0":  # as Go does: the answer ends with the connection
            self.send_header("Connection", "close")
        elif length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.started = True

    def _send(self, status: int, data: bytes, kind: str = _JSON) -> None:
        self._head(status, kind, len(data))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _json(self, document: dict[str, Any], status: int = 200) -> None:
        self._send(status, json.dumps(document, separators=(",", ":")).encode())

    def _refuse(self, path: str, refusal: RefusedError) -> None:
        own = {"error": refusal.text}
        document = openai.error(refusal.status, refusal.text) if path.startswith("/v1/") else own
        if self.started:  # the status is out: the error is the last line
            line = json.dumps(document, separators=(",", ":")).encode() + b"\n"
            self._chunk(b"data: " + line + b"\n" if path.startswith("/v1/") else line)
            self._chunk(b"")
        else:
            self._json(document, refusal.status)

    def _chunk(self, data: bytes) -> None:
        old = self.request_version == "HTTP/1.0"
        self.wfile.write(data if old else f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _stream(self, pieces: Iterable[bytes], kind: str) -> None:
        """Send pieces as they come; the header goes out with the first."""
        for piece in pieces:
            if not self.started:
                self._head(200, kind, None)
            self._chunk(piece)
        self._chunk(b"")

    def _lines(self, frames: Iterable[dict[str, Any]]) -> None:
        self._stream((json.dumps(frame, separators=(",", ":")).encode() + b"\n" for frame in frames), _NDJSON)

    # -- endpoints

    def _native(self, body: dict[str, Any], *, chat: bool) -> None:
        frames = self.answers.generate(body, self._alive, chat=chat)
        if body.get("stream", True):
            self._lines(frames)
            return
        collected = list(frames)
        last = collected[-1]
        if chat:
            last["message"]["content"] = "".join(frame["message"]["content"] for frame in collected)
            thinking = "".join(frame["message"].get("thinking", "") for frame in collected)
            last["message"].update({"thinking": thinking} if thinking else {})
        else:
            last["response"] = "".join(frame["response"] for frame in collected)
            thinking = "".join(frame.get("thinking", "") for frame in collected)
            last.update({"thinking": thinking} if thinking else {})
        self._json(last)

    def _openai(self, body: dict[str, Any], *, chat: bool) -> None:
        frames = self.answers.generate(openai.request(body, chat=chat), self._alive, chat=chat)
        if body.get("stream"):
            self._stream(openai.stream(frames, body, chat=chat), "text/event-stream")
        else:
            self._json(openai.whole(frames, body, chat=chat))

    def _openai_embeddings(self, body: dict[str, Any]) -> None:
        own = self.answers.embed(body, self._alive)
        data = [{"object": "embedding", "index": n, "embedding": vector} for n, vector in enumerate(own["embeddings"])]
        count = own["prompt_eval_count"]
        usage = {"prompt_tokens": count, "total_tokens": count}
        self._json({"object": "list", "data": data, "model": body["model"], "usage": usage})

    def _pull(self, body: dict[str, Any]) -> None:
        name = body.get("model") or body.get("name")
        if not isinstance(name, str) or not name:
            raise RefusedError(400, "model is required")
        try:
            with closing(pull(name, self._alive)) as frames:  # a client that leaves ends its download at once
                if body.get("stream", True):
                    self._lines(frames)
                else:
                    self._json(list(frames)[-1])
        except PullError as error:
            raise RefusedError(500, str(error)) from error
        except OSError as error:
            if isinstance(error, (BrokenPipeError, ConnectionResetError)):
                raise
            raise RefusedError(500, f"write {error.filename}: {(error.strerror or '').lower()}") from error

    def _delete(self, body: dict[str, Any]) -> None:
        store.delete(known(body).name)
        self._send(200, b"")

    def _copy(self, body: dict[str, Any]) -> None:
        known({"model": body.get("source")})
        store.copy(body["source"], str(body.get("destination")))
        self._send(200, b"")


def _listed(model: store.Model) -> dict[str, Any]:
    facts = model.facts["simulated"]
    return {
        "name": model.name,
        "model": model.name,
        "modified_at": model.modified,
        "size": facts["size"],
        "digest": model.digest,
        "details": model.details,
        "capabilities": facts["capabilities"],
    }


def _running(loaded: Loaded) -> dict[str, Any]:
    on_cpu = fault("cpu") is not None
    # far enough for ever, near enough for every parser of dates
    expires = datetime.fromtimestamp(min(loaded.expires, time.time() + 290 * 365 * 86400), UTC)
    return {
        "name": loaded.model.name,
        "model": loaded.model.name,
        "size": loaded.size,
        "digest": loaded.model.digest,
        "details": loaded.model.details,
        "expires_at": expires.isoformat().replace("+00:00", "Z"),
        "size_vram": 0 if on_cpu else loaded.size_vram,
        "context_length": loaded.context,
    }


def _shown(model: store.Model) -> dict[str, Any]:
    facts, family = model.facts["simulated"], model.facts["model_family"]
    heads = max(facts["kv_heads"], facts["embedding"] // facts["head_dim"])
    info = {
        "general.architecture": family,
        "general.description": "SIMULATED by the provision lab",
        f"{family}.block_count": facts["layers"],
        f"{family}.attention.head_count": heads,
        f"{family}.attention.head_count_kv": facts["kv_heads"],
        f"{family}.attention.key_length": facts["head_dim"],
        f"{family}.attention.value_length": facts["head_dim"],
        f"{family}.embedding_length": facts["embedding"],
        f"{family}.context_length": facts["trained_context"],
    }
    return {
        "modelfile": f"# SIMULATED by the provision lab\nFROM {model.name}\n",
        "template": "{{ .Prompt }}",
        "details": model.details,
        "model_info": info,
        "capabilities": facts["capabilities"],
        "modified_at": model.modified,
    }


def _openai_model(model: store.Model) -> dict[str, Any]:
    created = int(datetime.fromisoformat(model.modified).timestamp())
    return {"id": model.name, "object": "model", "created": created, "owned_by": "library"}


def _announce() -> None:
    settings = {key: value for key, value in sorted(os.environ.items()) if key.startswith("OLLAMA_")}
    log("server config", env=" ".join(f"{key}:{value}" for key, value in settings.items()) + " (simulated)")
    if driver() and int(driver().split(".")[0]) < 550:
        log("NVIDIA driver too old", "WARN", required_driver="550 or newer", driver=driver())
    visible = cards()
    for card in visible:
        total, free = (f"{card[key] / 1024:.1f} GiB" for key in ("memory_mib", "free_mib"))
        log(
            "inference compute",
            id=card["uuid"],
            library="CUDA",
            compute=card["compute_cap"],
            name=card["name"],
            driver=driver(),
            pci_id=card["pci_bus_id"][4:].lower(),
            total=total,
            available=free,
        )
    if not visible:
        log("inference compute", id="cpu", library="cpu", total="24.0 GiB", available="20.0 GiB")
    log("vram-based default context", default_num_ctx=default_context())


def serve() -> int:
    """Serve until SIGTERM, which cuts running streams as in the real server."""
    host, _, port = os.environ.get("OLLAMA_HOST", "127.0.0.1:11434").rpartition("://")[2].rpartition(":")
    try:
        home = Path.home() / ".ollama"
        home.mkdir(parents=True, exist_ok=True)
        (home / "id_ed25519").touch()
        store.start()
    except OSError as error:
        print(f"Error: could not create directory {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    _announce()
    server = listen(host or "127.0.0.1", int(port), store.VERSION.read_text().strip())
    log(f"Listening on {host}:{port} (version {Handler.version}, SIMULATED) {now()}")
    server.serve_forever()
    return 0


def listen(host: str, port: int, version: str) -> ThreadingHTTPServer:
    """Return a server bound to an address; `serve_forever` makes it answer."""
    Handler.scheduler = Scheduler()
    Handler.answers = Answers(Handler.scheduler)
    Handler.version = version
    ThreadingHTTPServer.request_queue_size = 512
    ThreadingHTTPServer.daemon_threads = True
    threading.Thread(target=_expire, args=(Handler.scheduler,), daemon=True).start()
    return ThreadingHTTPServer((host, port), Handler)


def _expire(scheduler: Scheduler) -> None:
    while True:
        time.sleep(0.25)
        scheduler.expire()
