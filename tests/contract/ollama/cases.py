"""The cases of the contract, read from the files of this folder: a request, and facts about the answer."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
GROUPS = (
    "plain",
    "names",
    "load",
    "generate",
    "thinking",
    "chat",
    "embed",
    "show",
    "openai",
    "anthropic",
    "copy_delete",
    "cors",
    "pull",
)
"""The files of cases, in the order of the page and of a run."""

_REPEATED = re.compile(r"<(\d+) x (.+)>")
_KEYS = {
    "name", "given", "request", "http", "headers", "body", "raw", "chunked", "same connection", "pipelined", "within",
    "recorded", "answer", "versions", "slow", "network",
}  # fmt: skip
_FACTS = {"status", "headers", "ends", "text", "json", "frames", "events", "chunks", "statuses"}


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        method: the method.
        path: the path, as sent.
        headers: further headers; a header with None is not sent.
        body: the bytes of the body; None for a request without one.
        http: the version of HTTP.
        chunked: whether the body goes out in chunks, without a length.
        may_fail: whether a preparation may answer with an error.
    """

    method: str
    path: str
    headers: dict[str, str | None] = field(default_factory=dict)
    body: bytes | None = None
    http: str = "1.1"
    chunked: bool = False
    may_fail: bool = False


@dataclass(frozen=True)
class Case:
    """A request, and facts about the answer.

    Attributes:
        name: the name, unique among all cases.
        group: the file of the case.
        given: words and requests that bring a server into the state that the case needs.
        requests: the request; several for a case about one connection.
        pipelined: whether all requests go out before the first answer is read.
        within: for how many seconds the request is repeated until the facts hold.
        recorded: whether the recordings have the case.
        slow: whether the case takes up to minutes on a real server.
        network: whether a real server leaves the machine for the answer; a live run leaves such cases out.
        answer: the facts.
        versions: by version: facts that replace facts of `answer`, or the reason why the version is not judged.
    """

    name: str
    group: str
    given: tuple[str | Request, ...]
    requests: tuple[Request, ...]
    pipelined: bool
    within: float
    recorded: bool
    slow: bool
    network: bool
    answer: dict[str, Any]
    versions: dict[str, dict[str, Any] | str]

    def expected(self, version: str) -> dict[str, Any] | str:
        """Return the facts for a version such as "0.17.4", or the reason why the version is not judged."""
        for key, change in self.versions.items():
            if f"{version}.".startswith(f"{key}."):
                if isinstance(change, str):
                    return change
                body = {"text", "json", "frames", "events"}
                kept = {k: v for k, v in self.answer.items() if not (k in body and body & change.keys())}
                return {k: v for k, v in {**kept, **change}.items() if v is not None}
        return self.answer

    @property
    def needs_registry(self) -> bool:
        """Whether the request names the registry of models that a run starts for the contract."""
        prepared = [each for each in self.given if isinstance(each, Request)]
        return any(b"$registry" in (request.body or b"") for request in [*prepared, *self.requests])


def load(folder: Path = FOLDER) -> list[Case]:
    """Return the cases of all groups, in order.

    Raises:
        ValueError: a file is no list of cases; the text says where.
    """
    found = [case for group in GROUPS for case in _of_file(folder / f"{group}.yaml", group)]
    names = [case.name for case in found]
    if double := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"several cases have the name {min(double)}")
    return found


def _of_file(path: Path, group: str) -> Iterator[Case]:
    for raw in yaml.safe_load(path.read_text()):
        where = f"{path.name}: {raw.get('name', raw)}"
        facts = [raw.get("answer"), *raw.get("versions", {}).values()]
        unknown = raw.keys() - _KEYS | {key for each in facts if isinstance(each, dict) for key in each.keys() - _FACTS}
        if unknown or not isinstance(raw.get("answer"), dict):
            raise ValueError(f"{where}: unknown {sorted(unknown)}" if unknown else f"{where}: no answer")
        yield Case(
            raw["name"],
            group,
            tuple(each if isinstance(each, str) else _request(each) for each in raw.get("given", [])),
            tuple(map(_request, raw["same connection"])) if "same connection" in raw else (_request(raw),),
            raw.get("pipelined", False),
            raw.get("within", 0),
            raw.get("recorded", True),
            raw.get("slow", False),
            raw.get("network", False),
            raw["answer"],
            raw.get("versions", {}),
        )


def _request(raw: dict[str, Any]) -> Request:
    method, path = raw["request"].split(" ", 1)
    body = (
        raw["raw"].encode() if "raw" in raw else json.dumps(_written(raw["body"])).encode() if "body" in raw else None
    )
    http, chunked, may_fail = raw.get("http", "1.1"), raw.get("chunked", False), raw.get("may fail", False)
    return Request(method, path, raw.get("headers", {}), body, http, chunked, may_fail)


def _written(value: Any) -> Any:
    """Return a body with every `<6000 x word >` written out."""
    if isinstance(value, dict):
        return {key: _written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_written(each) for each in value]
    if isinstance(value, str) and (repeated := _REPEATED.fullmatch(value)):
        return repeated[2] * int(repeated[1])
    return value
