"""Targets of the contract: recordings of real servers, and servers at an address."""

import json
import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tests.contract.ollama import wire
from tests.contract.ollama.cases import FOLDER, Case, Request
from tests.contract.ollama.judge import Answer, Difference, judge

RECORDED = ("0.33", "0.17")
"""The versions of the recordings. The simulator is held to the first."""
RECORDED_BYTES = 1500
"""A recording has so much of a body."""


class Target(Protocol):
    """Anything that answers cases."""

    @property
    def version(self) -> str: ...

    def answer(self, case: Case) -> Answer:
        """Return the answer to the case."""


def differences(case: Case, target: Target) -> list[Difference]:
    """Return the facts of a case that do not hold of a target; a case may have some seconds until the facts hold."""
    try:
        found = judge(case, target.answer(case), target.version)
    except RuntimeError as error:  # a state that the case needs cannot be reached
        return [Difference("given", "the state that the case needs", str(error))]
    if not case.within or isinstance(target, Recording):
        return found
    end = time.monotonic() + case.within
    while found and time.monotonic() < end:
        time.sleep(0.2)
        found = judge(case, target.answer(replace(case, given=())), target.version)
    return found


class Recording:
    """The recorded answers of a real server.

    Attributes:
        version: the version of the server, two numbers.
    """

    def __init__(self, version: str, path: Path | None = None) -> None:
        """Read the recording of a version from the folder of the contract, or from `path`."""
        self.version = version
        self._answers: dict[str, Answer] = {}
        now = None
        for name, raw in json.loads((path or FOLDER / f"recorded-{version}.json").read_text()).items():
            if stamps := re.findall(r'"created_at":"([^"]{26})\d*Z"', raw["body"]):
                now = datetime.fromisoformat(f"{stamps[-1]}+00:00")
            self._answers[name] = Answer(
                raw["status"],
                tuple((key, value) for key, value in raw["headers"]),
                _ENDS.get(raw["ended"], "cut"),
                raw["body"],
                now=now,
                cut=raw["bytes"] > RECORDED_BYTES,
                chunks=raw["chunks"],
                statuses=_statuses(raw["body"]) if not raw["headers"] else (),
            )

    @property
    def names(self) -> list[str]:
        """The names of all recorded cases."""
        return list(self._answers)

    def answer(self, case: Case) -> Answer:
        """Return the recorded answer to a case."""
        return self._answers[case.name]


_ENDS = {"length": "length", "chunked end": "chunked", "head": "head", "eof (no length)": "eof"}


def _statuses(body: str) -> tuple[int, ...]:
    """Read the recorded statuses of several requests: a list of statuses, or the number of times 200 came."""
    if body.startswith("["):
        return tuple(json.loads(body))
    return (200,) * int(body) if body.isdigit() else ()


class Address:
    """A server at an address, real or simulated.

    Attributes:
        version: the version whose facts are judged.
    """

    def __init__(self, host: str, port: int, version: str, *, registry: str = "", timeout: float = 300) -> None:
        """Talk to a server.

        Args:
            host: the host's address.
            port: the port.
            version: the version whose facts are judged, such as "0.17.4".
            registry: HOST:PORT of the registry of models; empty where no registry runs.
            timeout: the seconds without a byte after which an answer counts as cut.
        """
        self.version, self.registry = version, registry
        self._place, self._timeout = (host, port), timeout

    @property
    def port(self) -> int:
        """The port of the server."""
        return self._place[1]

    def answer(self, case: Case) -> Answer:
        """Bring the server into the state that the case needs, and return the answer.

        Raises:
            RuntimeError: the state cannot be reached; the text says why.
        """
        for each in case.given:
            self._prepare(each)
        if case.pipelined or len(case.requests) > 1:
            statuses = wire.on_one_connection(
                self._place, list(map(self._filled, case.requests)), self._timeout, pipelined=case.pipelined
            )
            return Answer(200, (), "", "", statuses=tuple(statuses))
        return self._ask(case.requests[0])

    def _ask(self, request: Request) -> Answer:
        found = wire.ask(self._place, self._filled(request), self._timeout)
        return replace(found, now=datetime.now(UTC))

    def _filled(self, request: Request) -> Request:
        """Return a request with the addresses of the server and the registry in place of their names."""
        own = f"http://{self._place[0]}:{self._place[1]}"
        headers = {key: value and value.replace("$own", own) for key, value in request.headers.items()}
        body = request.body and request.body.replace(b"$registry", self.registry.encode())
        return replace(request, headers=headers, body=body)

    def _prepare(self, given: str | Request) -> None:
        if isinstance(given, Request):
            answer = self._ask(given)
            if answer.status in {0, *range(400, 600)} and not given.may_fail:
                raise RuntimeError(f"{given.method} {given.path}: {answer.status} {answer.body[:300]}")
        elif given == "nothing loaded":
            self._unload()
        elif given in _MODELS:
            path, body = _MODELS[given]
            self._prepare(_post(path, {**body, "keep_alive": -1}))
        else:
            raise RuntimeError(f"unknown state {given!r}")

    def _unload(self) -> None:
        end = time.monotonic() + 20
        while models := self._running():
            for model in models:
                self._ask(_post("/api/generate", {"model": model["name"], "keep_alive": 0, "stream": False}))
            if time.monotonic() > end:
                raise RuntimeError(f"still loaded: {[model['name'] for model in models]}")
            time.sleep(0.1)

    def _running(self) -> list[dict[str, Any]]:
        answer = self._ask(Request("GET", "/api/ps"))
        try:
            models: list[dict[str, Any]] = json.loads(answer.body)["models"]
        except (ValueError, KeyError) as error:
            raise RuntimeError(f"GET /api/ps: {answer.status} {answer.ends} {answer.body[:300]}") from error
        return models


_MODELS = {
    "chat model loaded": ("/api/generate", {"model": "gemma3:270m", "stream": False}),
    "thinking model loaded": ("/api/generate", {"model": "think:latest", "stream": False}),
    "embedding model loaded": ("/api/embed", {"model": "embed:latest", "input": "."}),
}


def _post(path: str, body: dict[str, object]) -> Request:
    return Request("POST", path, body=json.dumps(body).encode())
