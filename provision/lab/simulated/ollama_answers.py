"""The simulated server's answers to generate, chat and embed, as frames of Ollama's own protocol."""

import hashlib
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from . import ollama_noise as noise
from . import ollama_words as words
from .ollama_checks import check_abilities, known, prompt_of, texts_of
from .ollama_errors import BusyError, GoneError, LoadError, RefusedError
from .ollama_json import encode
from .ollama_lab import fault, log
from .ollama_requests import Body, options
from .ollama_runner import Loaded, Scheduler
from .ollama_store import Model

_NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
Alive = Callable[[], bool]
Frames = Generator[dict[str, Any], None, None]


def now() -> str:
    """The time as Go's RFC3339Nano."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{rest:09}Z"


@dataclass(frozen=True)
class _Question:
    """A request for an answer.

    Args:
        body: the request.
        chat: whether the request is one of /api/chat, and not of /api/generate.
        prompt: the text to answer.
        needed: tokens of the part of the prompt that the server never drops.
        thinks: whether the answer begins with thinking.
        limit: the largest number of tokens; None without a limit.
        started: when the request came, by `time.perf_counter_ns`.
    """

    body: Body
    chat: bool
    prompt: str
    needed: int
    thinks: bool
    limit: int | None
    started: int

    def frame(self, text: str, thinking: str = "", **last: Any) -> dict[str, Any]:
        return _frame(self.body, self.chat, text, thinking, **last)


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

    def generate(self, body: Body, alive: Alive, *, chat: bool) -> Frames:
        """Frames of /api/generate or, with `chat`, of /api/chat. One frame alone says `load` or `unload`.

        Raises:
            RefusedError: the request cannot be answered.
        """
        started = time.perf_counter_ns()
        name = body.get("model") or ""
        empty = RefusedError(400, "model is required") if chat else RefusedError(404, "model '' not found")
        model = known(name, empty, f"model '{name}' not found")
        prompt, needed = prompt_of(body, chat)
        if prompt is None and body.get("keep_alive") == 0:
            self._scheduler.unload(model)
            yield _frame(body, chat, "", done_reason="unload")
            return
        abilities = self._abilities(model)
        check_abilities(body, model, abilities, chat)
        limit = options(body).get("num_predict")
        thinks = "thinking" in abilities and body.get("think") is not False
        with self._use(model, body, alive) as loaded:
            if prompt is None:
                yield _frame(body, chat, "", done_reason="load")
                return
            limit = int(limit) if limit and limit > 0 else None
            question = _Question(body, chat, prompt, needed, thinks, limit, started)
            yield from self._stream(loaded, question, alive)

    def embed(self, body: Body, alive: Alive) -> dict[str, Any]:
        """The answer of /api/embed: vectors that depend on the text and have no meaning.

        Raises:
            RefusedError: the request cannot be answered.
        """
        started = time.perf_counter_ns()
        texts = texts_of(body.get("input"))
        name = body.get("model") or ""
        model = known(name, RefusedError(404, "model '' not found"), f'model "{name}" not found, try pulling it first')
        with self._use(model, body, alive) as loaded, loaded.slots.held(alive):
            ready = time.perf_counter_ns()
            counts = [min(words.tokens(text), loaded.context) for text in texts]
            if not texts:
                return {"model": name, "embeddings": []}
            if body.get("truncate") is False and any(words.tokens(text) > loaded.context for text in texts):
                raise RefusedError(400, "the input length exceeds the context length")
            vectors = [_vector(model, text)[: body.get("dimensions") or None] for text in texts]
        took = {"total_duration": time.perf_counter_ns() - started, "load_duration": ready - started}
        return {"model": name, "embeddings": vectors, **took, "prompt_eval_count": sum(counts)}

    def embedding(self, body: Body, alive: Alive) -> dict[str, Any]:
        """The answer of /api/embeddings, the old form of /api/embed.

        Raises:
            RefusedError: the request cannot be answered.
        """
        name, prompt = body.get("model") or "", body.get("prompt") or ""
        model = known(name, RefusedError(400, "model is required"), f'model "{name}" not found, try pulling it first')
        with self._use(model, body, alive) as loaded, loaded.slots.held(alive):
            try:
                return {"embedding": _vector(model, prompt) if prompt else []}
            except RefusedError as error:
                raise RefusedError(500, error.text) from error

    @contextmanager
    def _use(self, model: Model, body: Body, alive: Alive) -> Iterator[Loaded]:
        """Keep the model of a request loaded.

        Raises:
            RefusedError: the queue is full (503), or the model does not load (500).
        """
        context = options(body).get("num_ctx")
        try:
            with self._scheduler.use(model, int(context) if context else None, body.get("keep_alive"), alive) as loaded:
                yield loaded
        except BusyError as error:
            text = "server busy, please try again.  maximum pending requests exceeded"
            raise RefusedError(503, text) from error
        except LoadError as error:
            raise RefusedError(500, str(error)) from error

    def _stream(self, loaded: Loaded, question: _Question, alive: Alive) -> Frames:
        # without the wait for a slot, as in the real server
        load_duration = max(loaded.since, time.perf_counter_ns()) - question.started
        with loaded.slots.held(alive), _logged(question.prompt), self._scheduler.streaming():
            admitted = time.perf_counter_ns()
            asked = _read(loaded, question)
            begun = time.perf_counter_ns()
            thoughts, said, cut = _cut(question)
            first = due = time.monotonic()
            for word in thoughts:
                yield question.frame("", thinking=word)
                due = self._tick(loaded, alive, due)
            for word in said:
                yield question.frame(word)
                due = self._tick(loaded, alive, due)
            ended, made = time.perf_counter_ns(), due - first
            noise.request(asked, len(thoughts) + len(said))
        spoken = [*question.prompt.split(), *thoughts, *said]
        wants_context = not question.chat and not question.body.get("raw")
        context: dict[str, Any] = {"context": words.token_ids(spoken)} if wants_context else {}
        yield question.frame(
            "",
            done_reason="length" if cut else "stop",
            **context,
            total_duration=ended - question.started,
            load_duration=load_duration,
            prompt_eval_count=asked,
            prompt_eval_duration=begun - admitted,
            eval_count=len(thoughts) + len(said),
            eval_duration=round(made * 1e9),  # the speed of the simulated cards, not of this machine
        )

    def _tick(self, loaded: Loaded, alive: Alive, due: float) -> float:
        """Wait until the next token is due, and return when the one after it is due.

        The clock does not drift: the rate of tokens holds on a busy machine too.

        Raises:
            GoneError: the client left.
            RefusedError: the fault `stream-fails` is on.
        """
        due += words.pause(loaded.share) * self._scheduler.slowness() * _slow()
        time.sleep(max(0.0, due - time.monotonic()))
        if not alive():
            raise GoneError
        if fault("stream-fails") is not None:
            raise RefusedError(500, "an error was encountered while running the model: simulated by the provision lab")
        return due


def _slow() -> float:
    """How many times slower answers are by the fault `slow`."""
    text = fault("slow")
    return 1 if text is None else float(text or 10)


def _read(loaded: Loaded, question: _Question) -> int:
    """Take the time that reading the prompt takes, and return how many tokens were read.

    Raises:
        RefusedError: a message of a chat is longer than the context; another prompt is cut (400).
    """
    if question.chat and question.needed > loaded.context:
        raise RefusedError(400, _too_long(question.needed, loaded.context))
    asked = min(words.tokens(question.prompt), loaded.context)
    time.sleep(words.reading(asked))
    return asked


def _too_long(asked: int, context: int) -> str:
    text = f"request ({asked} tokens) exceeds the available context size ({context} tokens), try increasing it"
    sizes = {"n_prompt_tokens": asked, "n_ctx": context}
    error = {"code": 400, "message": text, "type": "exceed_context_size_error", **sizes}
    return encode({"error": error}).decode()


def _cut(question: _Question) -> tuple[list[str], list[str], bool]:
    """Thoughts and words of an answer, cut to the limit, which counts both; and whether the limit cut them."""
    thoughts = words.THINKING if question.thinks else []
    said = words.answer(question.prompt, as_json=bool(question.body.get("format")))
    whole = len(thoughts) + len(said)
    limit = whole if question.limit is None else question.limit
    return thoughts[:limit], said[: max(0, limit - len(thoughts))], limit < whole


@contextmanager
def _logged(prompt: str) -> Iterator[None]:
    """Log when an answer begins and ends, so that a test can find an answer that was given twice at once.

    The hash names the prompt. A killed answer has no end.
    """
    name = hashlib.sha256(prompt.encode(errors="replace")).hexdigest()[:16]
    log("simulated: generation begins", prompt=name)
    try:
        yield
    finally:
        log("simulated: generation ends", prompt=name)


def _vector(model: Model, text: str) -> list[float]:
    facts = model.facts["simulated"]
    if "embedding" not in facts["capabilities"]:
        raise RefusedError(501, _NO_EMBEDDINGS)
    return words.vector(text, facts["embedding"])


def _frame(body: Body, chat: bool, text: str, thinking: str = "", **last: Any) -> dict[str, Any]:
    frame: dict[str, Any] = {"model": body.get("model"), "created_at": now()}
    thoughts = {"thinking": thinking} if thinking else {}
    if chat:
        frame["message"] = {"role": "assistant", "content": text, **thoughts}
    else:
        frame.update({"response": text, **thoughts})
    return {**frame, "done": bool(last), **last}
