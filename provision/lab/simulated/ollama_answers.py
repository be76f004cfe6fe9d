"""The simulated server's answers to generate, chat and embed, as frames of Ollama's own protocol."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from .ollama_lab import fault, log
from .ollama_runner import BusyError, GoneError, Loaded, LoadError, Scheduler, pause, seconds, tokens
from .ollama_store import Model, NotFoundError, find

_THINKING = ["(simulated", " thinking", " of", " the", " provision", " lab)"]
Frames = Iterator[dict[str, Any]]


class RefusedError(Exception):
    """An answer that is an error: its HTTP status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def known(body: dict[str, Any]) -> Model:
    """The model that a request names.

    Raises:
        RefusedError: the request names no model (400), or a model that is not here (404).
    """
    name = body.get("model") or body.get("name")
    if not isinstance(name, str) or not name:
        raise RefusedError(400, "model is required")
    try:
        return find(name)
    except NotFoundError as error:
        raise RefusedError(404, f"model '{name}' not found") from error


class Answers:
    """Makes answers with what a scheduler has loaded."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._seen: dict[str, tuple[str, ...]] = {}

    def _abilities(self, model: Model) -> tuple[str, ...]:
        """Abilities of a model, by the head of its weights: read once in the life of a server, as 0.33 does.

        So a model whose weights were damaged at that moment can do nothing until the server restarts.
        """
        digest = str(model.weights["digest"])
        stated = tuple(model.facts["simulated"]["capabilities"])
        if (whole := model.has_head()) is None:
            return stated
        return self._seen.setdefault(digest, stated if whole else ())

    def generate(self, body: dict[str, Any], alive: Callable[[], bool], *, chat: bool) -> Frames:
        """Frames of /api/generate or, with `chat`, of /api/chat.

        Raises:
            RefusedError: the request cannot be answered.
        """
        model = known(body)
        abilities = self._abilities(model)
        kind = "chat" if chat else "generate"
        if "completion" not in abilities:
            raise RefusedError(400, f'"{body["model"]}" does not support {kind}')
        if body.get("think") and "thinking" not in abilities:
            raise RefusedError(400, f'"{body["model"]}" does not support thinking')
        prompt = _prompt(body, chat)
        if prompt is None:
            yield from self._load_only(model, body, alive, chat)
            return
        thinks = "thinking" in abilities and body.get("think") is not False
        started = time.perf_counter_ns()
        with self._use(model, body, alive) as loaded, _logged(prompt):
            yield from self._stream(loaded, body, prompt, alive, chat, thinks, started)

    def embed(self, body: dict[str, Any], alive: Callable[[], bool]) -> dict[str, Any]:
        """The answer of /api/embed: vectors that depend on the text and have no meaning.

        Raises:
            RefusedError: the request cannot be answered.
        """
        model = known(body)
        texts = body.get("input", body.get("prompt", ""))
        texts = [texts] if isinstance(texts, str) else list(texts)
        started = time.perf_counter_ns()
        with self._use(model, body, alive):
            if any(texts) and "embedding" not in model.facts["simulated"]["capabilities"]:
                raise RefusedError(501, "This server does not support embeddings. Start it with `--embeddings`")
            vectors = [_vector(str(text), model.facts["simulated"]["embedding"]) for text in texts if text]
        count = sum(len(str(text).split()) for text in texts)
        took = time.perf_counter_ns() - started
        return {"model": body["model"], "embeddings": vectors, "total_duration": took, "prompt_eval_count": count}

    def _use(self, model: Model, body: dict[str, Any], alive: Callable[[], bool]) -> Any:
        options = body.get("options") or {}
        try:
            keep = None if body.get("keep_alive") is None else seconds(body["keep_alive"])
        except ValueError as error:
            raise RefusedError(400, str(error)) from error
        return _Translated(self._scheduler.use(model, options.get("num_ctx"), keep, alive))

    def _load_only(self, model: Model, body: dict[str, Any], alive: Callable[[], bool], chat: bool) -> Frames:
        if str(body.get("keep_alive")) in {"0", "0s"}:
            self._scheduler.unload(model.name)
            yield _frame(body, chat, "", done_reason="unload")
            return
        with self._use(model, body, alive):
            pass
        yield _frame(body, chat, "", done_reason="load")

    def _stream(
        self,
        loaded: Loaded,
        body: dict[str, Any],
        prompt: str,
        alive: Callable[[], bool],
        chat: bool,
        thinks: bool,
        started: int,
    ) -> Frames:
        admitted = time.perf_counter_ns()
        limit = (body.get("options") or {}).get("num_predict")
        words, cut = tokens(prompt, limit)
        evaluated = max(1, int(len(prompt.split()) * 1.3))
        time.sleep(0.02 + evaluated / 5000)
        begun = time.perf_counter_ns()
        count, due = 0, time.monotonic()
        for thought in _THINKING if thinks else ():
            yield _frame(body, chat, "", thinking=thought)
            count += 1
            due = self._tick(loaded, alive, due)
        for word in words:
            yield _frame(body, chat, word)
            count += 1
            due = self._tick(loaded, alive, due)
        ended = time.perf_counter_ns()
        yield _frame(
            body,
            chat,
            "",
            done_reason="length" if cut else "stop",
            total_duration=ended - started,
            load_duration=max(0, loaded.since - started),  # without the wait for a slot, as in the real server
            prompt_eval_count=evaluated,
            prompt_eval_duration=begun - admitted,
            eval_count=count,
            eval_duration=ended - begun,
        )

    def _tick(self, loaded: Loaded, alive: Callable[[], bool], due: float) -> float:
        """Wait until the next token is due, and return when the one after it is due.

        The clock does not drift: the rate of tokens holds on a busy machine too.

        Raises:
            GoneError: the client left.
            RefusedError: the fault `stream-fails` is on.
        """
        due += pause(loaded)
        time.sleep(max(0.0, due - time.monotonic()))
        if not alive():
            raise GoneError
        if fault("stream-fails") is not None:
            raise RefusedError(500, "an error was encountered while running the model: simulated by the provision lab")
        return due


@contextmanager
def _logged(prompt: str) -> Iterator[None]:
    """Log when an answer begins and ends, so that a test can find an answer that was given twice at once.

    The hash names the prompt. A killed answer has no end.
    """
    name = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    log("simulated: generation begins", prompt=name)
    try:
        yield
    finally:
        log("simulated: generation ends", prompt=name)


class _Translated:
    """A context manager that turns errors on entry into answers."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Loaded:
        try:
            loaded: Loaded = self._inner.__enter__()
        except BusyError as error:
            text = "server busy, please try again.  maximum pending requests exceeded"
            raise RefusedError(503, text) from error
        except LoadError as error:
            raise RefusedError(500, str(error)) from error
        return loaded

    def __exit__(self, *error: object) -> Any:
        return self._inner.__exit__(*error)


def _prompt(body: dict[str, Any], chat: bool) -> str | None:
    """The text to answer; None where the request only loads (or unloads) the model."""
    if not chat:
        return body.get("prompt") or None
    messages = body.get("messages") or []
    return " ".join(str(message.get("content") or "") for message in messages) if messages else None


def _frame(body: dict[str, Any], chat: bool, text: str, thinking: str = "", **last: Any) -> dict[str, Any]:
    frame: dict[str, Any] = {"model": body.get("model"), "created_at": now()}
    thoughts = {"thinking": thinking} if thinking else {}
    if chat:
        frame["message"] = {"role": "assistant", "content": text, **thoughts}
    else:
        frame.update({"response": text, **thoughts})
    return {**frame, "done": bool(last), **last}


def _vector(text: str, length: int) -> list[float]:
    seed = hashlib.sha256(text.encode()).digest()
    return [round((seed[index % 32] - 128) / 1280, 6) for index in range(length)]
