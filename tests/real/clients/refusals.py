"""The refusals of the gateway as a client sees them: a case for each refusal, streaming and not."""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import Any

MODEL = "gemma3:270m"
LARGE = "a" * 300_000
"""More than the gateway takes."""
TIMEOUTS = count(40)
"""The time limit of a client's requests, in seconds. The gateway's log has the limit, which so names the case."""


def cases(
    make: Callable[[str, int], Any],
    ask: Callable[..., object],
    kinds: Mapping[int, type[Exception]],
    keys: Mapping[str, str],
) -> dict[str, Callable[[], str]]:
    """Return the cases.

    Args:
        make: returns a client with a key, and with a time limit in seconds.
        ask: sends a request by a client: model, whether to stream, text, headers. Reads the answer to its end.
        kinds: status -> wanted class of the exception.
        keys: names of clients -> their keys.
    """

    def refused(status: int, who: str, model: str, stream: bool, text: str = "Say yes.", **headers: str) -> str:
        limit = next(TIMEOUTS)
        client = make(keys[who], limit)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        error = _caught(lambda: ask(client, model, stream, text, given), kinds[status])
        assert error.status_code == status, error
        return f"{type(error).__name__} {error.status_code}, limit {limit}: {error}"[:300]

    unauthorized = 401 if 401 in kinds else 403
    named: dict[str, Callable[[bool], str]] = {
        "unknown key": lambda stream: refused(unauthorized, "nobody", MODEL, stream),
        "expired key": lambda stream: refused(unauthorized, "old", MODEL, stream),
        "revoked key": lambda stream: refused(unauthorized, "gone", MODEL, stream),
        "model of others": lambda stream: refused(403, "bob", MODEL, stream),
        "unknown model": lambda stream: refused(404, "alice", "nope", stream),
        "too large": lambda stream: refused(413, "alice", MODEL, stream, LARGE),
        "encoded": lambda stream: refused(415, "alice", MODEL, stream, Content_Encoding="zstd"),
        "too fast": lambda stream: refused(429, "eve", MODEL, stream),
        "tokens used": lambda stream: refused(429, "quinn", MODEL, stream),
        "no room": lambda stream: refused(503, "alice", "busy:latest", stream),
    }
    return {
        f"{name}{' stream' if stream else ''}": partial(act, stream)
        for name, act in named.items()
        for stream in (False, True)
    }


def _caught(act: Callable[[], object], kind: type[Exception]) -> Any:
    """Return the exception of a request. The first requests of a client with a limit are answered."""
    for _ in range(4):
        try:
            act()
        except kind as error:
            return error
    raise AssertionError("the request was answered")
