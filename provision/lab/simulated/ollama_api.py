"""The simulated server's API: the table of routes, the way of a request to its endpoint, and the answers to errors."""

import posixpath
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from . import ollama_anthropic as anthropic
from . import ollama_foreign as foreign
from . import ollama_native as native
from . import ollama_openai as openai
from . import ollama_origins as origins
from .ollama_answers import Answers
from .ollama_errors import GoneError, RefusedError
from .ollama_http import JSON, PLAIN_JSON, TEXT, Client
from .ollama_json import encode
from .ollama_lab import fault
from .ollama_requests import Body, parse
from .ollama_runner import Scheduler


class Handler(Client):
    """One connection: from the request to its endpoint, and from an error to its answer."""

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

    answer: Callable[[Client, Body, str], None]
    request: str = ""


def _last_piece(path: str, refusal: RefusedError) -> bytes:
    if path.startswith("/v1/messages"):
        return anthropic.error_event(refusal.status, refusal.text)
    if path.startswith("/v1/"):
        return openai.error_event(refusal.status, refusal.text)
    return encode({"error": refusal.text}) + b"\n"


def _both(route: Route) -> dict[str, Route]:
    return {"HEAD": route, "GET": route}


ROUTES: dict[str, dict[str, Route]] = {
    "/": _both(Route(native.root)),
    "/api/version": _both(Route(native.version)),
    "/api/tags": _both(Route(native.tags)),
    "/api/ps": {"GET": Route(native.ps)},
    "/api/status": {"GET": Route(native.status)},
    "/api/show": {"POST": Route(native.show, "ShowRequest")},
    "/api/generate": {"POST": Route(native.generate, "GenerateRequest")},
    "/api/chat": {"POST": Route(native.chat, "ChatRequest")},
    "/api/embed": {"POST": Route(native.embed, "EmbedRequest")},
    "/api/embeddings": {"POST": Route(native.embeddings, "EmbeddingRequest")},
    "/api/pull": {"POST": Route(native.pull, "PullRequest")},
    "/api/create": {"POST": Route(native.create, "CreateRequest")},
    "/api/copy": {"POST": Route(native.copy, "CopyRequest")},
    "/api/delete": {"DELETE": Route(native.delete, "DeleteRequest")},
    "/api/blobs/*": {"HEAD": Route(native.blob), "POST": Route(native.upload)},
    "/v1/models": {"GET": Route(foreign.openai_models)},
    "/v1/models/*": {"GET": Route(foreign.openai_model)},
    "/v1/chat/completions": {"POST": Route(foreign.openai_chat, "ChatCompletionRequest")},
    "/v1/completions": {"POST": Route(foreign.openai_completion, "CompletionRequest")},
    "/v1/embeddings": {"POST": Route(foreign.openai_embeddings, "EmbeddingsRequest")},
    "/v1/messages": {"POST": Route(foreign.messages, "MessagesRequest")},
    "/v1/responses": {"POST": Route(foreign.response, "ResponsesRequest")},
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
