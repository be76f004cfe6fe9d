"""Large bodies: how long other requests of a worker process wait while the worker judges a body."""

import json
import socket
import statistics
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing

from tests.bench.gateway.client import CHAT, Ask, Place, asked, post
from tests.bench.gateway.places import LOAD, MODELS, OURS, PLAIN, Front
from tests.bench.gateway.rig import SINGLE, Rig
from tests.bench.measure import BenchError

NATIVE = "/api/chat"
SIZES = (0, 1, 5, 20)
"""Megabytes; without a body the figure is the noise of the machine."""
WAYS = ((PLAIN, CHAT), (OURS, CHAT), (OURS, NATIVE))
_MESSAGES = 100
_LINE = "The quick brown fox jumps over the lazy dog, and nobody is surprised.\n"
_TOKENS, _PACE = 400, 2  # tokens of the watched stream, and milliseconds between two
_AFTER = 0.2  # seconds after the start of the stream

Stalls = Mapping[tuple[str, str, int], float]


def body(megabytes: int, model: str) -> bytes:
    """Return a chat of a hundred long messages.

    Args:
        megabytes: size of the body.
        model: name of the model.
    """
    text = _LINE * (megabytes * 10**6 // _MESSAGES // (len(_LINE) + 1))
    numbers = {"model": model, "max_tokens": 1, "seed": 0, "options": {"num_predict": 1, "seed": 0}}
    return json.dumps({**numbers, "messages": [{"role": "user", "content": text}] * _MESSAGES}).encode()


def stalls(rig: Rig, repeats: int) -> Stalls:
    """Return way, path and megabytes -> the longest pause of a stream in seconds, the median of the repeats.

    Args:
        rig: the ground.
        repeats: how often a body is sent.
    """
    found: dict[tuple[str, str, int], list[float]] = {}
    with ExitStack() as stack:
        fronts = {name: stack.enter_context(rig.balancer(name, settings)) for name, settings in SINGLE.items()}
        rig.say("large bodies")
        for _ in range(repeats):
            for size in SIZES:
                for name, path in WAYS:
                    pause = _pause(fronts[name], path, size)
                    found.setdefault((name, path, size), []).append(pause)
    return {key: statistics.median(pauses) for key, pauses in found.items()}


def _pause(front: Front, path: str, size: int) -> float:
    """Return the longest pause of a stream of one model while a body goes to the other model."""
    watched, other = MODELS
    place = front.at(watched, 0)
    statuses: list[bytes] = []
    request = post(place, path, front.keys[LOAD], body(size, other))
    sender = threading.Thread(target=_send, args=(place, request, statuses))
    if size:
        sender.start()
    answer = asked(Ask(place, watched, front.keys[LOAD], _TOKENS, _PACE))
    if size:
        sender.join()
        if statuses != [b"200"]:
            raise BenchError(f"{front.name} answers {statuses} to a body of {size} MB at {path}")
    if not answer.good:
        raise BenchError(f"the stream through {front.name} failed: {answer.failure}")
    return answer.gap


def _send(place: Place, request: bytes, statuses: list[bytes]) -> None:
    time.sleep(_AFTER)
    with closing(socket.create_connection((place.address, place.port), timeout=60)) as connection:
        connection.sendall(request)
        statuses.append(connection.recv(65536)[9:12])
        while connection.recv(65536):
            pass
