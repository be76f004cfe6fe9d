"""The routes by model: `/models/NAME/...` on every balancer, and the lists of models at its root.

Facts: nginx matches a location against the decoded path without `..` and doubled slashes, and an exact or longer
location wins (ngx_http_core_module, location). A parameter of nginx's configuration has at most 4096 bytes
(NGX_CONF_BUFFER, src/core/ngx_conf_file.c). The regular expression below `location /models/` is looked at only where no
longer location matches. The expression has no captures, and `set` has constants: the known vulnerabilities need
captures (docs/facts.md#nginx-versions).
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from provision.render import render
from provision.steps.nginx.balanced_engine import BalancedEngine
from provision.steps.nginx.replica_sets import ReplicaSet, are_alike, common
from provision.steps.nginx.upstream import block_name

FILE = "models.conf"
TEMPLATE = f"balancer/{FILE}.j2"
PREFIX = "/models/"
OPENAI = "/v1/"
UNKNOWN = "-"
"""A name that no model has: a name of Ollama begins with a letter, a digit or `_`."""
CLOSED = "this path is not open here"
LONGEST = 3000  # bytes of a part of an answer
NAMED, NAMES = 20, 1500  # names, and characters of names, in an error
_NAME = re.compile(r"[a-z0-9_][a-z0-9_.:-]*(?:/[a-z0-9_][a-z0-9_.:-]*)*")


@dataclass(frozen=True)
class Location:
    """A location of nginx.

    Args:
        match: the path, perhaps with `=` in front.
        target: group of servers and path, for a request that goes on; empty for an answer of nginx's own.
        status: status of nginx's answer.
        parts: the answer as JSON text, in parts that fit a parameter of nginx's.
    """

    match: str
    target: str = ""
    status: int = 0
    parts: tuple[str, ...] = ()


def text(sets: Sequence[ReplicaSet], engine: BalancedEngine) -> bytes:
    """Return the text of `models.conf`, which nginx reads inside the balancer's server.

    Args:
        sets: the replica sets of the balancer, in the order of their blocks. The root belongs to the first. A name from
            the present text of a host may be any text, and only a plain name has a path.
        engine: the engine of the instances.
    """
    sets = [ReplicaSet(tuple(filter(_NAME.fullmatch, replicas.models)), replicas.labels) for replicas in sets]
    models = [model for replicas in sets for model in replicas.models]
    missing = (
        f"no such model here, at {PREFIX}NAME; served: {_named(models)}" if models else "no model is declared here"
    )
    return render(
        TEMPLATE,
        locations=list(_locations(sets, engine)),
        prefix=PREFIX,
        own_paths=re.escape(engine.own_paths) if engine.own_paths else "",
        own=_literal(engine.own_error(missing)),
        missing=_literal(_missing(missing)),
    )


def _locations(sets: Sequence[ReplicaSet], engine: BalancedEngine) -> Iterator[Location]:
    """The locations, each once: where two short forms of names meet, the earlier model has the path."""
    found: dict[str, Location] = {}
    closed: dict[str, Location] = {}
    for location in _root(sets, engine):
        found.setdefault(location.match, location)
    refusal = engine.own_error(CLOSED)
    for place, replicas in enumerate(sets):
        block = block_name(engine.name, place)
        for model in replicas.models:
            for name in engine.spellings(model):
                for location in _of_model(f"{PREFIX}{name}", block, replicas, sets, engine):
                    found.setdefault(location.match, location)
                closed.setdefault(f"{PREFIX}{name}/", Location(f"{PREFIX}{name}/", "", 403, (_literal(refusal),)))
    yield from found.values()
    yield from (location for match, location in closed.items() if match not in found)


def _root(sets: Sequence[ReplicaSet], engine: BalancedEngine) -> Iterator[Location]:
    """The lists of the whole fleet, and the questions that name a model in their path."""
    is_alike = len(sets) < 2
    models = [model for replicas in sets for model in replicas.models]
    for path, listed in engine.lists.items():
        yield Location(f"= {path}", f"{engine.name}{path}") if is_alike else _static(f"= {path}", listed(models))
    for place, replicas in enumerate(() if is_alike else sets):
        for model in replicas.models:
            target = f"{block_name(engine.name, place)}{OPENAI}models/{model}"
            yield from (Location(f"= {OPENAI}models/{name}", target) for name in engine.spellings(model))


def _of_model(
    base: str, block: str, replicas: ReplicaSet, sets: Sequence[ReplicaSet], engine: BalancedEngine
) -> Iterator[Location]:
    """The paths of a model: those of the root, at the instances with the model."""
    alike = are_alike(replicas, sets)
    for path in dict.fromkeys((*engine.client_paths, *engine.lists)):
        if path in engine.lists and not alike:
            yield _static(f"= {base}{path}", engine.lists[path](common(replicas, sets)))
        else:
            yield Location(f"= {base}{path}", f"{block}{path}")
    yield Location(f"{base}{OPENAI}", f"{block}{OPENAI}")


def _static(match: str, body: str) -> Location:
    parts = tuple(body[start : start + LONGEST] for start in range(0, len(body), LONGEST))
    return Location(match, "", 200, tuple(map(_literal, parts)))


def _named(models: Sequence[str]) -> str:
    """Some models, in words; `GET /v1/models` has them all."""
    shown: list[str] = []
    for model in models[:NAMED]:
        if sum(map(len, shown)) + len(model) <= NAMES:
            shown.append(model)
    more = len(models) - len(shown)
    return ", ".join(shown) + (f" and {more} more, see {OPENAI}models" if more else "")


def _missing(message: str) -> str:
    """An error as the clients of both APIs below /v1/ read it: openai-python reads message, type, param and code of
    `error`, Anthropic's clients the outer type, and type and message of `error`."""
    error = {"message": message, "type": "not_found_error", "param": None, "code": "model_not_found"}
    return json.dumps({"type": "error", "error": error}, separators=(",", ":"))


def _literal(body: str) -> str:
    """The inside of a parameter in single quotes. nginx has no way to write a dollar sign there.

    Raises:
        ValueError: the text has a dollar sign.
    """
    if "$" in body:
        raise ValueError("a dollar sign in an answer of nginx")
    return body.replace("\\", "\\\\").replace("'", "\\'")
