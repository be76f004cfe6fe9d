"""Loading models and making answers: memory, parallel slots, queue and keep-alive as in the real server."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import ollama_durations as durations
from . import ollama_noise as noise
from .ollama_errors import BusyError, GoneError, LoadError
from .ollama_lab import MIB, cards, fault, hold, knob, log
from .ollama_store import Model

_GIB = 1 << 30
_CACHE_SHARE = {"f16": 1.0, "q8_0": 0.53, "q4_0": 0.28}


def number(name: str, default: int) -> int:
    """A whole number from the environment."""
    try:
        return int(os.environ.get(name) or default)
    except ValueError:
        return default


def default_context() -> int:
    """The context length for requests that name none: as set, else by the memory of all cards."""
    return number("OLLAMA_CONTEXT_LENGTH", 0) or context_by_memory()


def context_by_memory() -> int:
    """The context length that the memory of all cards allows."""
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

    @contextmanager
    def held(self, alive: Callable[[], bool]) -> Iterator[None]:
        """Hold a slot.

        Raises:
            GoneError: the client left while waiting.
        """
        self.acquire(alive)
        try:
            yield
        finally:
            self.release()

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
        unsaid: whether it works on the CPU, against `size_vram`.
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
    unsaid: bool = False
    since: int = 0

    @property
    def expires(self) -> float:
        return self.used + self.keep

    @property
    def share(self) -> float:
        """The share of the model that is on cards."""
        return 0 if self.unsaid else self.size_vram / max(1, self.size)


class Scheduler:
    """The loaded models, the requests that wait for a model, and when each model goes.

    A model is known by the digest of its weights: names with the same weights share one place, and the place has the
    name that came first, as in the real server.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._loaded: dict[str, Loaded] = {}
        self._waiting = 0
        self._streams = 0

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Count one more answer that is being made."""
        with self._changed:
            self._streams += 1
        try:
            yield
        finally:
            with self._changed:
                self._streams -= 1

    def slowness(self) -> int:
        """How many times slower than alone each answer is: answers at once share the speed of the machine.

        The knob `shared_speed` 0 gives every answer the whole speed.
        """
        return max(1, self._streams) if knob("shared_speed", 1) else 1

    def running(self) -> list[Loaded]:
        """Every model that is loaded."""
        with self._changed:
            return [model for model in self._loaded.values() if model.ready]

    def unload(self, model: Model) -> None:
        """Unload a model as soon as no request uses the model."""
        with self._changed:
            if _key(model) in self._loaded:
                self._loaded[_key(model)].keep = 0
        self.expire()

    def expire(self) -> None:
        """Unload every idle model whose time has come."""
        with self._changed:
            for loaded in list(self._loaded.values()):
                if loaded.ready and not loaded.active and time.time() >= loaded.expires:
                    self._drop(loaded)

    @contextmanager
    def use(self, model: Model, context: int | None, keep: float | None, alive: Callable[[], bool]) -> Iterator[Loaded]:
        """Keep a model loaded while a request uses the model; load the model first where needed.

        Args:
            model: the model.
            context: tokens per slot; None for the server's own.
            keep: seconds to stay loaded afterwards; None leaves the time as an earlier request set the time.
            alive: whether the client is still connected.

        Raises:
            BusyError: OLLAMA_MAX_QUEUE requests wait for a load already.
            LoadError: the model does not load.
            GoneError: the client left while waiting.
        """
        asked = context or default_context()
        limit = model.facts.get("simulated", {}).get("trained_context", asked)
        loaded = self._enter(model, min(asked, limit), alive)
        try:
            if keep is not None:
                loaded.keep = keep
            yield loaded
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
                    if not waits and self._waiting >= self._room():
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

    def _room(self) -> int:
        """How many requests may wait: besides the queue, the scheduler itself holds one, which loads or waits."""
        loads = any(not each.ready for each in self._loaded.values())
        return number("OLLAMA_MAX_QUEUE", 512) + (not loads)

    def _place(self, model: Model, context: int) -> Loaded | None:
        """The model where it is ready; a new place to load the model into; None where the caller must wait."""
        loaded = self._loaded.get(_key(model))
        if loaded and loaded.ready and loaded.context == context:
            return loaded
        if any(not each.ready for each in self._loaded.values()):
            return None
        if loaded:
            if loaded.active:
                return None
            self._drop(loaded)
        if len(self._loaded) >= (number("OLLAMA_MAX_LOADED_MODELS", 0) or 3 * max(1, len(cards()))):
            idle = [each for each in self._loaded.values() if not each.active]
            if not idle:
                return None
            self._drop(min(idle, key=lambda each: each.used))
        slots = 1 if "embedding" in model.facts["simulated"]["capabilities"] else number("OLLAMA_NUM_PARALLEL", 1)
        keep = durations.of_environment(os.environ.get("OLLAMA_KEEP_ALIVE") or "5m")
        new = Loaded(model, context, Slots(slots), keep=keep)
        self._loaded[_key(model)] = new
        self._place_in_memory(new, slots)
        return new

    def _load(self, loaded: Loaded, alive: Callable[[], bool]) -> Loaded:
        try:
            begun = time.monotonic()
            while True:
                if not alive():
                    log("client connection closed before llama-server finished loading, aborting load", "WARN")
                    raise GoneError
                if time.monotonic() >= begun + knob("load_seconds", 0.4):  # read anew: a person may change the knob
                    break
                time.sleep(0.05)
            if complaint := loaded.model.complaint():
                raise LoadError(complaint)
        except (GoneError, LoadError):
            with self._changed:
                loaded.active -= 1
                self._drop(loaded)
            raise
        with self._changed:
            loaded.ready, loaded.since = True, time.perf_counter_ns()
            self._changed.notify_all()
        noise.load(loaded.model, loaded.size, loaded.size_vram, loaded.context)
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
        if fault("cpu-unsaid") is not None:
            loaded.unsaid, shares = True, {}
        hold(loaded.model.name, {uuid: -(-amount // MIB) for uuid, amount in shares.items()})

    def _drop(self, loaded: Loaded) -> None:
        self._loaded.pop(_key(loaded.model), None)
        hold(loaded.model.name, {})
        self._changed.notify_all()


def _key(model: Model) -> str:
    return str(model.weights["digest"])
