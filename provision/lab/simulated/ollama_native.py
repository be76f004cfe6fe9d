"""Ollama's own endpoints: each answers a client, by the body of the request and by the last part of its path."""

from contextlib import closing
from itertools import chain
from typing import Any

from . import ollama_create as creation
from . import ollama_documents as documents
from . import ollama_pull as pulling
from . import ollama_store as store
from .ollama_answers import Frames
from .ollama_checks import known
from .ollama_errors import RefusedError
from .ollama_http import PLAIN_JSON, Client
from .ollama_json import encode
from .ollama_lab import switched_on
from .ollama_names import full_name, is_valid
from .ollama_requests import Body


def root(client: Client, _: Body, __: str) -> None:
    client.send_bytes(200, b"Ollama is running", "text/plain; charset=utf-8")


def version(client: Client, _: Body, __: str) -> None:
    client.send_json({"version": client.version})


def status(client: Client, _: Body, __: str) -> None:
    disabled = switched_on("OLLAMA_NO_CLOUD")
    client.send_json({"cloud": {"disabled": disabled, "source": "env" if disabled else "none"}})


def tags(client: Client, _: Body, __: str) -> None:
    client.send_json({"models": [documents.listed(model) for model in store.everything()]})


def ps(client: Client, _: Body, __: str) -> None:
    client.send_json({"models": [documents.running(model) for model in client.scheduler.running()]})


def show(client: Client, body: Body, _: str) -> None:
    name = _name(body)
    if not name:
        raise RefusedError(400, "model is required")
    model = known(name, RefusedError(400, "model is required"), f"model '{full_name(name)}' not found")
    client.send_json(documents.shown(model))


def generate(client: Client, body: Body, _: str) -> None:
    frames = client.answers.generate(body, client.alive, chat=False)
    _native(client, body, frames)


def chat(client: Client, body: Body, _: str) -> None:
    frames = client.answers.generate(body, client.alive, chat=True)
    _native(client, body, frames)


def _native(client: Client, body: Body, frames: Frames) -> None:
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


def embed(client: Client, body: Body, _: str) -> None:
    client.send_json(client.answers.embed(body, client.alive))


def embeddings(client: Client, body: Body, _: str) -> None:
    client.send_json(client.answers.embedding(body, client.alive))


def pull(client: Client, body: Body, _: str) -> None:
    name = _name(body)
    if not is_valid(name):
        raise RefusedError(400, "invalid model name")
    try:
        # a client that leaves ends its download at once
        with closing(pulling.pull(name, client.alive, insecure=bool(body.get("insecure")))) as frames:
            _progress(client, body, frames)
    except pulling.PullError as error:
        _fail(client, str(error))
    except OSError as error:
        if isinstance(error, (BrokenPipeError, ConnectionResetError)):
            raise
        _fail(client, f"write {error.filename}: {(error.strerror or '').lower()}")


def create(client: Client, body: Body, _: str) -> None:
    with closing(creation.create(body)) as frames:
        _progress(client, body, frames)


def _progress(client: Client, body: Body, frames: Frames) -> None:
    """Answer with the lines of a progress, or with the last of them."""
    if body.get("stream") is False:
        client.send_bytes(200, encode([*frames][-1]), PLAIN_JSON)
    else:
        client.send_lines(frames)


def _fail(client: Client, text: str) -> None:
    """End a progress with an error."""
    if client.started:
        raise RefusedError(500, text)
    client.send_bytes(500, encode({"error": text}), PLAIN_JSON)


def delete(client: Client, body: Body, _: str) -> None:
    name = _name(body)
    if name and not is_valid(name):
        raise RefusedError(400, f'name "{name}" is invalid')
    store.delete(known(name, RefusedError(400, "model is required"), f"model '{name}' not found").name)
    client.send_bytes(200, b"")


def copy(client: Client, body: Body, _: str) -> None:
    for role in ("source", "destination"):
        if not is_valid(body.get(role) or ""):
            raise RefusedError(400, f'{role} "{body.get(role) or ""}" is invalid')
    source = body["source"]
    known(source, RefusedError(400, "model is required"), f'model "{source}" not found')
    store.copy(source, body["destination"])
    client.send_bytes(200, b"")


def blob(client: Client, _: Body, digest: str) -> None:
    creation.blob(digest)
    client.send_bytes(200, b"")


def upload(client: Client, _: Body, digest: str) -> None:
    client.send_bytes(creation.upload(digest, client.data), b"")


def _name(body: Body) -> str:
    return body.get("model") or body.get("name") or ""
