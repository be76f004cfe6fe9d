"""Loading models and making answers: memory, parallel slots, queue and keep-alive as in the real server."""

import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .ollama_lab import MIB, cards, hold, knob, log
from .ollama_store import Model

_GIB = 1 << 30
_FOREVER = float("inf")
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}
_CACHE_SHARE = {"f16": 1.0, "q8_0": 0.53, "q4_0": 0.28}


class BusyError(Exception):
    """Too many requests wait for a load."""


class LoadError(Exception):
    """The model cannot be loaded."""


class GoneError(Exception):
    """The client left."""


def seconds(value: Any) -> float:
    """A keep-alive as seconds: a number, or Go's notation; anything negative is for ever.

    Raises:
        ValueError: the value is not a duration.
    """
    if isinstance(value, (int, float)):
        return _FOREVER if value < 0 else float(value)
    text = str(value).strip()
    if re.fullmatch(r"-?\d+", text):
        return seconds(int(text))
    parts = re.findall(r"([\d.]+)(ns|us|ms|s|m|h)", text)
    if not parts or not re.fullmatch(r"-?([\d.]+(ns|us|ms|s|m|h))+", text):
        raise ValueError(f"time: invalid duration {text!r}")
    return _FOREVER if text.startswith("-") else sum(float(number) * _UNITS[unit] for number, unit in parts)


def number(name: str, default: int) -> int:
    """A whole number from the environment."""
    try:
        return int(os.environ.get(name) or default)
    except ValueError:
        return default


def default_context() -> int:
    """The context length for requests that name none: as set, else by the memory of all cards."""
    if length := number("OLLAMA_CONTEXT_LENGTH", 0):
        return length
    total = sum(card["memory_mib"] for card in cards()) / 1024
    return 262144 if total >= 47 else 32768 if total >= 23 else 4096


class Slots:
    """Slots for parallel requests, given in the order of asking. The queue has no limit.

    As Ollama's own `semaphore.Weighted` does (docs/facts.md#ollama-api).
    """

    def __init__(self, count: int) -> None:
        self._guard = threading.Lock()
        self._free = count
        self._queue: deque[threading.Event] = deque()

    def acquire(self, alive: Callable[[], bool]) -> None:
        """Wait for a place.

        Raises:
            GoneError: the client left while waiting.
        """
        with self._guard:
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._queue.append(turn)
        while not turn.wait(0.1):
            if not alive():
                self._leave(turn)
                raise GoneError

    def release(self) -> None:
        """Give the slot to the request that has waited longest."""
        with self._guard:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._free += 1

    def _leave(self, turn: threading.Event) -> None:
        with self._guard:
            if not turn.is_set():
                self._queue.remove(turn)
                return
        self.release()


@dataclass
class Loaded:
    """A model in memory.

    Args:
        model: the model.
        context: tokens per slot.
        slots: free places for requests at once.
        since: when it was ready, by `time.perf_counter_ns`.
    """

    model: Model
    context: int
    slots: Slots
    size: int = 0
    size_vram: int = 0
    keep: float = 300.0
    used: float = field(default_factory=time.time)
    active: int = 0
    ready: bool = False
    since: int = 0

    @property
    def expires(self) -> float:
        return self.used + self.keep


class Scheduler:
    """The loaded models, the requests that wait for a model, and when each model goes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._loaded: dict[str, Loaded] = {}
        self._waiting = 0

    def running(self) -> list[Loaded]:
        """Every model that is loaded."""
        with self._changed:
            return [model for model in self._loaded.values() if model.ready]

    def unload(self, name: str) -> None:
        """Unload a model as soon as no request uses the model."""
        with self._changed:
            if name in self._loaded:
                self._loaded[name].keep = 0
        self.expire()

    def expire(self) -> None:
        """Unload every idle model whose time has come."""
        with self._changed:
            for name, model in list(self._loaded.items()):
                if model.ready and not model.active and time.time() >= model.expires:
                    self._drop(name)

    @contextmanager
    def use(self, model: Model, context: int | None, keep: float | None, alive: Callable[[], bool]) -> Iterator[Loaded]:
        """Hold one slot of a loaded model; load the model first where needed.

        Raises:
            BusyError: OLLAMA_MAX_QUEUE requests wait for a load already.
            LoadError: the model does not load.
            GoneError: the client left while waiting.
        """
        asked = context or default_context()
        limit = model.facts.get("simulated", {}).get("trained_context", asked)
        loaded = self._enter(model, min(asked, limit), alive)
        try:
            if keep is not None:  # else the model keeps the last keep-alive until it is loaded anew
                loaded.keep = keep
            loaded.slots.acquire(alive)
            try:
                yield loaded
            finally:
                loaded.slots.release()
        finally:
            with self._changed:
                loaded.active -= 1
                loaded.used = time.time()
                self._changed.notify_all()
            self.expire()

    def _enter(self, model: Model, context: int, alive: Callable[[], bool]) -> Loaded:
        """The loaded model, with the caller counted as a user."""
        waits = False
        with self._changed:
            try:
                while (loaded := self._place(model, context)) is None:
                    if not waits and self._waiting >= number("OLLAMA_MAX_QUEUE", 512):
                        raise BusyError
                    self._waiting += not waits
                    waits = True
                    self._changed.wait(0.1)
                    if not alive():
                        raise GoneError
            finally:
                self._waiting -= waits
            loaded.active += 1
            if loaded.ready:
                return loaded
        return self._load(loaded, alive)

    def _place(self, model: Model, context: int) -> Loaded | None:
        """The model where it is ready; a new place to load the model into; None where the caller must wait."""
        loaded = self._loaded.get(model.name)
        if loaded and loaded.ready and loaded.context == context and loaded.model.digest == model.digest:
            return loaded
        if any(not each.ready for each in self._loaded.values()):
            return None
        if loaded:
            if loaded.active:
                return None
            self._drop(model.name)
        if len(self._loaded) >= (number("OLLAMA_MAX_LOADED_MODELS", 0) or 3 * max(1, len(cards()))):
            idle = [each for each in self._loaded.values() if not each.active]
            if not idle:
                return None
            self._drop(min(idle, key=lambda each: each.used).model.name)
        slots = 1 if "embedding" in model.facts["simulated"]["capabilities"] else number("OLLAMA_NUM_PARALLEL", 1)
        new = Loaded(model, context, Slots(slots), keep=seconds(os.environ.get("OLLAMA_KEEP_ALIVE") or "5m"))
        self._loaded[model.name] = new
        self._place_in_memory(new, slots)
        return new

    def _load(self, loaded: Loaded, alive: Callable[[], bool]) -> Loaded:
        try:
            end = time.monotonic() + knob("load_seconds", 0.4)
            while time.monotonic() < end:
                if not alive():
                    log("client connection closed before llama-server finished loading, aborting load", "WARN")
                    raise GoneError
                time.sleep(0.05)
            if complaint := loaded.model.complaint():
                raise LoadError(complaint)
        except (GoneError, LoadError):
            with self._changed:
                loaded.active -= 1
                self._drop(loaded.model.name)
            raise
        with self._changed:
            loaded.ready, loaded.since = True, time.perf_counter_ns()
            self._changed.notify_all()
        share = f"{loaded.model.facts['simulated']['layers'] + 1 if loaded.size_vram else 0}"
        log(
            f"simulated: offloaded {share} layers to GPU",
            model=loaded.model.name,
            size=loaded.size,
            vram=loaded.size_vram,
        )
        return loaded

    def _place_in_memory(self, loaded: Loaded, slots: int) -> None:
        """Choose the model's memory: one card, all cards, or as much as fits on the cards and the rest on the CPU."""
        facts = loaded.model.facts["simulated"]
        token = 2 * 2 * facts["layers"] * facts["kv_heads"] * facts["head_dim"]
        share = _CACHE_SHARE.get(os.environ.get("OLLAMA_KV_CACHE_TYPE") or "f16", 1.0)
        loaded.size = int(facts["size"] + token * share * loaded.context * slots + 0.9 * _GIB)
        free = {card["uuid"]: max(0, card["free_mib"]) * MIB for card in cards()}
        single = [uuid for uuid, room in free.items() if room >= loaded.size]
        if single:
            shares = {single[0]: loaded.size}
        else:
            whole = sum(free.values())
            fits = min(loaded.size, int(whole * 0.95))
            shares = {uuid: fits * room // whole for uuid, room in free.items() if room}
        loaded.size_vram = loaded.size if single else min(loaded.size, sum(shares.values()))
        hold(loaded.model.name, {uuid: -(-amount // MIB) for uuid, amount in shares.items()})

    def _drop(self, name: str) -> None:
        self._loaded.pop(name, None)
        hold(name, {})
        self._changed.notify_all()


def tokens(prompt: str, limit: int | None) -> tuple[list[str], bool]:
    """The words of an answer, and whether `limit` cut them. The words call themselves simulated."""
    answer = (
        f"This answer is simulated by the provision lab; no language model made it. Words asked: {len(prompt.split())}."
    )
    words = answer.split()
    words += ["simulated"] * (int(knob("answer_tokens", len(words))) - len(words))
    wanted = len(words) if limit is None or limit < 0 else limit
    return [word if index == 0 else f" {word}" for index, word in enumerate(words[:wanted])], wanted < len(words)


def pause(loaded: Loaded) -> float:
    """Seconds between two tokens, by where the model is."""
    rate: float = knob("tokens_per_second", 60)
    return 1 / max(0.1, rate * (0.1 + 0.9 * loaded.size_vram / max(1, loaded.size)))
