"""The simulated server's API: the table of routes, and Ollama's own endpoints."""

import posixpath
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from itertools import chain
from typing import Any
from urllib.parse import unquote, urlsplit

from . import ollama_anthropic as anthropic
from . import ollama_create as creation
from . import ollama_documents as documents
from . import ollama_openai as openai
from . import ollama_origins as origins
from . import ollama_responses as responses
from . import ollama_store as store
from .ollama_answers import Answers, Frames, known
from .ollama_errors import GoneError, RefusedError
from .ollama_http import EVENTS, JSON, PLAIN_JSON, TEXT, Client
from .ollama_json import encode
from .ollama_lab import fault, switched_on
from .ollama_names import full_name, is_valid
from .ollama_pull import PullError, pull
from .ollama_requests import Body, parse
from .ollama_runner import Scheduler

_NO_CACHE = [("Cache-Control", "no-cache"), ("Connection", "keep-alive")]


class Handler(Client):
    """One connection: from the request to its endpoint, and from an error to its answer.

    `data` is the body of the request, and `bound_to` the server's address.
    """

    data: bytes = b""
    bound_to: str

    def handle_request(self) -> None:
        try:
            self.data = self.body()
            self._check_faults()
            self._dispatch()
        except RefusedError as refusal:
            self._refuse(refusal)
        except (GoneError, BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _check_faults(self) -> None:
        while fault("hang") is not None:
            if not self.alive():
                raise GoneError
            time.sleep(0.2)
        if fault("answer-503") is not None:
            raise RefusedError(503, "server busy, please try again.  maximum pending requests exceeded")

    def _dispatch(self) -> None:
        path, *query = self.requestline.split()[1].split("?", 1)  # self.path has lost doubled slashes
        clean = _clean(path)
        if clean != path and self.command != "CONNECT":
            self._redirect(307, clean, query)
            return
        methods, argument = _match(unquote(path))
        slashed = path.removesuffix("/") if path.endswith("/") else f"{path}/"
        if self.command not in methods and path != "/" and self.command in _match(unquote(slashed))[0]:
            self._redirect(301 if self.command == "GET" else 307, slashed, query)
            return
        if methods and self.command not in methods:
            self.extra = [("Allow", ", ".join(methods))]
        if self._lets_in():
            self._answer(methods, argument)

    def _answer(self, methods: "dict[str, Route]", argument: str) -> None:
        if route := methods.get(self.command):
            route.answer(self, parse(route.request, self.data) if route.request else {}, argument)
        elif methods:
            self.send_bytes(405, b"405 method not allowed", TEXT)
        else:
            self.send_bytes(404, b"404 page not found", TEXT)

    def _lets_in(self) -> bool:
        """Whether the request comes from a page and for a host that the server answers to; else answer that."""
        host = self.headers.get("Host", "")
        headers = origins.answer(self.headers.get("Origin"), host, self.command)
        if headers is None or not origins.answers_to(host, self.bound_to):
            self.send_bytes(403, b"")
            return False
        self.extra = [*self.extra, *headers]
        if headers and self.command == "OPTIONS":
            self.send_bytes(204, b"")
            return False
        return True

    def _redirect(self, status: int, path: str, query: list[str]) -> None:
        target = "?".join([path, *query])
        words = "Moved Permanently" if status == 301 else "Temporary Redirect"
        self.extra = [("Location", target)]
        link = f'<a href="{target}">{words}</a>.\n\n' if self.command == "GET" else ""
        self.send_bytes(status, link.encode(errors="replace"), "text/html; charset=utf-8" if link else "")

    # -- errors

    def _refuse(self, refusal: RefusedError) -> None:
        path = urlsplit(self.path).path
        if self.started:  # the status is out: the error is the end of the stream
            self.send_piece(_last_piece(path, refusal))
            self.send_piece(b"")
        elif path.startswith("/v1/"):
            words = anthropic.error if path.startswith("/v1/messages") else openai.error
            self.send_json(words(refusal.status, refusal.text), refusal.status, JSON if refusal.early else PLAIN_JSON)
        else:
            self.send_json({"error": refusal.text}, refusal.status)


@dataclass(frozen=True)
class Route:
    """An endpoint.

    Args:
        answer: answers a request, by its body and by the last part of its path.
        request: name of the type of the body; empty for an endpoint that reads no JSON.
    """

    answer: Callable[[Handler, Body, str], None]
    request: str = ""


def _last_piece(path: str, refusal: RefusedError) -> bytes:
    if path.startswith("/v1/messages"):
        return anthropic.error_event(refusal.status, refusal.text)
    if path.startswith("/v1/"):
        return openai.error_event(refusal.status, refusal.text)
    return encode({"error": refusal.text}) + b"\n"


# -- Ollama's own endpoints


def _root(client: Handler, _: Body, __: str) -> None:
    client.send_bytes(200, b"Ollama is running", "text/plain; charset=utf-8")


def _version(client: Handler, _: Body, __: str) -> None:
    client.send_json({"version": client.version})


def _status(client: Handler, _: Body, __: str) -> None:
    disabled = switched_on("OLLAMA_NO_CLOUD")
    client.send_json({"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


def _tags(client: Handler, _: Body, __: str) -> None:
    client.send_json({"models": [documents.listed(model) for model in store.everything()]})


def _ps(client: Handler, _: Body, __: str) -> None:
    client.send_json({"models": [documents.running(model) for model in client.scheduler.running()]})


def _show(client: Handler, body: Body, _: str) -> None:
    name = _name(body)
    if not name:
        raise RefusedError(400, "model is required")
    model = known(name, RefusedError(400, "model is required"), f"model '{full_name(name)}' not found")
    client.send_json(documents.shown(model))


def _generate(client: Handler, body: Body, _: str) -> None:
    frames = client.answers.generate(body, client.alive, chat=False)
    _native(client, body, frames)


def _chat(client: Handler, body: Body, _: str) -> None:
    frames = client.answers.generate(body, client.alive, chat=True)
    _native(client, body, frames)


def _native(client: Handler, body: Body, frames: Frames) -> None:
    """Answer with lines, or with one document: always with a document where a model was only loaded or unloaded."""
    with closing(frames):
        first = next(frames)
        if first.get("done_reason") in {"load", "unload"}:
            client.send_json(first)
        elif body.get("stream") is False:
            client.send_json(_joined([first, *frames]))
        else:
            client.send_lines(chain([first], frames))


def _joined(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """The frames of an answer as one document."""
    last = frames[-1]
    parts = [frame.get("message", frame) for frame in frames]
    own = last.get("message", last)
    key = "content" if "message" in last else "response"
    own[key] = "".join(part[key] for part in parts)
    thinking = "".join(part.get("thinking", "") for part in parts)
    if not thinking:
        return last
    if "message" in last:
        own["thinking"] = thinking
        return last
    early = {name: value for name, value in last.items() if name in {"model", "created_at", "response"}}
    return {**early, "thinking": thinking, **last}


def _embed(client: Handler, body: Body, _: str) -> None:
    client.send_json(client.answers.embed(body, client.alive))


def _embeddings(client: Handler, body: Body, _: str) -> None:
    client.send_json(client.answers.embedding(body, client.alive))


def _pull(client: Handler, body: Body, _: str) -> None:
    name = _name(body)
    if not is_valid(name):
        raise RefusedError(400, "invalid model name")
    try:
        # a client that leaves ends its download at once
        with closing(pull(name, client.alive, insecure=bool(body.get("insecure")))) as frames:
            _progress(client, body, frames)
    except PullError as error:
        _fail(client, str(error))
    except OSError as error:
        if isinstance(error, (BrokenPipeError, ConnectionResetError)):
            raise
        _fail(client, f"write {error.filename}: {(error.strerror or '').lower()}")


def _create(client: Handler, body: Body, _: str) -> None:
    with closing(creation.create(body)) as frames:
        _progress(client, body, frames)


def _progress(client: Handler, body: Body, frames: Frames) -> None:
    """Answer with the lines of a progress, or with the last of them."""
    if body.get("stream") is False:
        client.send_bytes(200, encode([*frames][-1]), PLAIN_JSON)
    else:
        client.send_lines(frames)


def _fail(client: Handler, text: str) -> None:
    """End a progress with an error."""
    if client.started:
        raise RefusedError(500, text)
    client.send_bytes(500, encode({"error": text}), PLAIN_JSON)


def _delete(client: Handler, body: Body, _: str) -> None:
    name = _name(body)
    if name and not is_valid(name):
        raise RefusedError(400, f'name "{name}" is invalid')
    store.delete(known(name, RefusedError(400, "model is required"), f"model '{name}' not found").name)
    client.send_bytes(200, b"")


def _copy(client: Handler, body: Body, _: str) -> None:
    for role in ("source", "destination"):
        if not is_valid(body.get(role) or ""):
            raise RefusedError(400, f'{role} "{body.get(role) or ""}" is invalid')
    source = body["source"]
    known(source, RefusedError(400, "model is required"), f'model "{source}" not found')
    store.copy(source, body["destination"])
    client.send_bytes(200, b"")


def _blob(client: Handler, _: Body, digest: str) -> None:
    creation.blob(digest)
    client.send_bytes(200, b"")


def _upload(client: Handler, _: Body, digest: str) -> None:
    client.send_bytes(creation.upload(digest, client.data), b"")


def _name(body: Body) -> str:
    return body.get("model") or body.get("name") or ""


# -- the endpoints of other APIs


def _openai_chat(client: Handler, body: Body, _: str) -> None:
    _openai(client, body, openai.chat_request(body), chat=True)


def _openai_completion(client: Handler, body: Body, _: str) -> None:
    _openai(client, body, openai.completion_request(body), chat=False)


def _openai(client: Handler, body: Body, asked: Body, *, chat: bool) -> None:
    with closing(client.answers.generate(asked, client.alive, chat=chat)) as frames:
        if body.get("stream"):
            client.send_stream(openai.stream(frames, body, chat=chat), EVENTS)
        else:
            client.send_json(openai.whole(frames, body, chat=chat), kind=PLAIN_JSON)


def _openai_embeddings(client: Handler, body: Body, _: str) -> None:
    own = client.answers.embed(openai.embedding_request(body), client.alive)
    client.send_json(openai.embeddings(own, body), kind=PLAIN_JSON)


def _openai_models(client: Handler, _: Body, __: str) -> None:
    data = [documents.openai_model(model) for model in store.everything()]
    client.send_json({"object": "list", "data": data}, kind=PLAIN_JSON)


def _openai_model(client: Handler, _: Body, name: str) -> None:
    model = known(name, RefusedError(404, ""), f"model '{full_name(name)}' not found")
    client.send_json(documents.openai_model(model), kind=PLAIN_JSON)


def _messages(client: Handler, body: Body, _: str) -> None:
    asked = anthropic.request(body)
    with closing(client.answers.generate(asked, client.alive, chat=True)) as frames:
        if body.get("stream"):
            client.send_stream(anthropic.stream(frames, body, asked), EVENTS, _NO_CACHE)
        else:
            client.send_json(anthropic.whole(frames, body), kind=PLAIN_JSON)


def _responses(client: Handler, body: Body, _: str) -> None:
    with closing(client.answers.generate(responses.request(body), client.alive, chat=True)) as frames:
        if body.get("stream"):
            client.send_stream(responses.stream(frames, body), EVENTS, _NO_CACHE)
        else:
            client.send_json(responses.whole(frames, body), kind=PLAIN_JSON)


def _both(route: Route) -> dict[str, Route]:
    return {"HEAD": route, "GET": route}


ROUTES: dict[str, dict[str, Route]] = {
    "/": _both(Route(_root)),
    "/api/version": _both(Route(_version)),
    "/api/tags": _both(Route(_tags)),
    "/api/ps": {"GET": Route(_ps)},
    "/api/status": {"GET": Route(_status)},
    "/api/show": {"POST": Route(_show, "ShowRequest")},
    "/api/generate": {"POST": Route(_generate, "GenerateRequest")},
    "/api/chat": {"POST": Route(_chat, "ChatRequest")},
    "/api/embed": {"POST": Route(_embed, "EmbedRequest")},
    "/api/embeddings": {"POST": Route(_embeddings, "EmbeddingRequest")},
    "/api/pull": {"POST": Route(_pull, "PullRequest")},
    "/api/create": {"POST": Route(_create, "CreateRequest")},
    "/api/copy": {"POST": Route(_copy, "CopyRequest")},
    "/api/delete": {"DELETE": Route(_delete, "DeleteRequest")},
    "/api/blobs/*": {"HEAD": Route(_blob), "POST": Route(_upload)},
    "/v1/models": {"GET": Route(_openai_models)},
    "/v1/models/*": {"GET": Route(_openai_model)},
    "/v1/chat/completions": {"POST": Route(_openai_chat, "ChatCompletionRequest")},
    "/v1/completions": {"POST": Route(_openai_completion, "CompletionRequest")},
    "/v1/embeddings": {"POST": Route(_openai_embeddings, "EmbeddingsRequest")},
    "/v1/messages": {"POST": Route(_messages, "MessagesRequest")},
    "/v1/responses": {"POST": Route(_responses, "ResponsesRequest")},
}
"""Methods of each path; a star is the last part of a path."""


def _match(path: str) -> tuple[dict[str, Route], str]:
    """The methods of a path, and what its star stands for."""
    if path in ROUTES:
        return ROUTES[path], ""
    above, _, last = path.rpartition("/")
    return (ROUTES.get(f"{above}/*", {}), last) if last and last != "*" else ({}, "")


def _clean(path: str) -> str:
    """The path without doubled slashes and dots, as Go's ServeMux redirects to."""
    clean = posixpath.normpath("/" + path.lstrip("/"))
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean


def listen(host: str, port: int, version: str) -> ThreadingHTTPServer:
    """Return a server bound to an address; `serve_forever` makes it answer."""
    Handler.scheduler = Scheduler()
    Handler.answers = Answers(Handler.scheduler)
    Handler.version = version
    ThreadingHTTPServer.request_queue_size = 512
    ThreadingHTTPServer.daemon_threads = True
    threading.Thread(target=_expire, args=(Handler.scheduler,), daemon=True).start()
    server = ThreadingHTTPServer((host, port), Handler)
    Handler.bound_to = str(server.socket.getsockname()[0])
    return server


def _expire(scheduler: Scheduler) -> None:
    while True:
        time.sleep(0.25)
        scheduler.expire()
