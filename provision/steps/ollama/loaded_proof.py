"""The proofs of loaded models in a verification: an answer and its speed, the time to stay loaded, memory of the cards.

Only a loaded model is asked: a question to another would load that model, and verify changes nothing.
Sources: a request's keep_alive stays with the loaded model, docs/facts.md#ollama-variables; durations of an answer and
`expires_at`, docs/facts.md#ollama-api.
"""

import base64
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from provision.inventory import duration_seconds
from provision.steps.base import NOT_ASKED, Check
from provision.steps.ollama import server_state
from provision.steps.ollama.measured_speed import IN_FLIGHT, LEAST_TOKENS, PROMPT, TOKENS, rate_of
from provision.steps.ollama.server_state import Server, canonical
from provision.steps.speed import Speed
from provision.terminal_text import ending

ANSWER_TIMEOUT = 300  # seconds; a busy instance answers in its turn
FOREVER = 2200
"""A year: a server that keeps a model for ever adds 292 years, Go's longest duration."""
SLACK = 10  # seconds between an answer and the next request that moves `expires_at`

# $1 container, $2 ADDRESS:PORT, $3 request, $4 request for models that only embed. Options would load the model anew,
# except num_predict. Prints whether the server was quiet, the answer, and the loaded models after the answer. A quiet
# server is asked twice: the first answer after a load may be slow on a healthy card (kernels are loaded, graphs are
# captured), and the speed is compared with instances that answered before.
QUESTION = (
    IN_FLIGHT
    + rf"""
name=$1 at=$2
get() {{ curl --noproxy '*' -sS -m {ANSWER_TIMEOUT} "$@" 2>&1 | head -c 60000; }}
say() {{ printf '%s %s\n' "$1" "$(printf '%s' "$2" | base64 -w 0)"; }}
await_quiet "$name"
answer=$(get -d "$3" "http://$at/api/generate")
case $answer in *'does not support generate'*) answer=$(get -d "$4" "http://$at/api/embed") ;; esac
case $quiet:$answer in yes:*'"eval_count"'*) answer=$(get -d "$3" "http://$at/api/generate") ;; esac
still_quiet "$name"
say quiet "$quiet"
say answer "$answer"
say loaded "$(get "http://$at/api/ps")"
"""
)


@dataclass(frozen=True)
class Said:
    """A server's answer to the question.

    Args:
        text: the answer.
        quiet: `yes` if no other request was under way; else why nobody knows, or that others were.
        loaded: model name -> entry of `/api/ps` after the answer; the last known entries without an answer.
    """

    text: str
    quiet: str
    loaded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Whether the answer has a token or a vector."""
        text = self.text.replace(" ", "")
        return '"eval_count":' in text or '"embeddings":' in text

    @property
    def last(self) -> Mapping[str, Any]:
        """The answer as a document; empty for any other text."""
        try:
            document = json.loads(self.text)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


def checks(live: Any, instance: str, server: Server, names: Sequence[str], cards: str) -> Iterator[Check]:
    """Ask the first loaded model of an instance for a few tokens, then how long the models stay loaded.

    Args:
        live: testinfra's host.
        instance: name of the instance.
        server: of the instance.
        names: the declared models that are loaded, at least one.
        cards: the cards of the instance in words; empty if unknown.
    """
    name = names[0]
    said = _ask(live, instance, server, name)
    yield Check(f"{name}: generates a token", said.is_good or ending(said.text, 200), True)
    if said.is_good:
        yield from _speed(said, name, cards)
    for model in map(canonical, names):
        asked = said if model == canonical(name) else None
        yield from _stays(server, model, said.loaded.get(model, {}), asked)


def _ask(live: Any, instance: str, server: Server, name: str) -> Said:
    body = {"model": name, "prompt": PROMPT, "stream": False, "options": {"num_predict": TOKENS}}
    words = (instance, server.at, json.dumps(body), json.dumps({"model": name, "input": "."}))
    output = live.run("sh -c %s sh %s %s %s %s", QUESTION, *words).stdout
    parts = dict(line.split(" ", 1) for line in output.splitlines() if " " in line)
    text, quiet, loaded = (_decoded(parts.get(key, "")) for key in ("answer", "quiet", "loaded"))
    now = server_state.as_served(server_state.models(loaded), server.tags or {})
    return Said(text, quiet or "nothing was said", (server.loaded or {}) if now is None else now)


def _decoded(text: str) -> str:
    try:
        return base64.b64decode(text).decode(errors="replace")
    except ValueError:
        return ""


def _speed(said: Said, name: str, cards: str) -> Iterator[Check]:
    """Yield the speed of an answer, to be compared with the rest of the fleet; nothing for a vector."""
    rate = rate_of(said.last)
    if "eval_count" not in said.last:
        return
    what = f"{canonical(name)} on {cards}"
    reason = "" if said.quiet == "yes" else said.quiet
    reason = reason or ("" if cards else "the names of its cards are unknown")
    reason = reason or ("" if rate else f"the answer is shorter than {LEAST_TOKENS} tokens")
    if reason:
        yield Check(f"{NOT_ASKED}the speed of {name}: {reason}", True, True)
    else:
        yield Check(f"{name}: made {rate:.1f} tokens per second", True, True, speed=Speed(what, rate))


def _stays(server: Server, model: str, entry: Mapping[str, Any], said: Said | None) -> Iterator[Check]:
    """Yield whether a model stays loaded as long as the instance's keep_alive says; nothing where nobody can tell."""
    kept = _kept(server, entry, said)
    if kept is None:
        return
    wanted = "for ever" if server.keeps else f"{duration_seconds(server.keep_alive):g} s after a request"
    got = wanted if kept == wanted else f"{kept}, by the keep_alive of a request; to set it back, type on the host: "
    fix = "" if kept == wanted else mend(server, model, embeds=said is not None and '"embeddings"' in said.text)
    yield Check(f"{model}: stays loaded", got + fix, wanted)


def _kept(server: Server, entry: Mapping[str, Any], said: Said | None) -> str | None:
    """Return how long a model stays loaded; None where nobody can tell."""
    until = str(entry.get("expires_at", ""))
    year = int(until[:4]) if re.match(r"\d{4}-", until) else 0
    if year < 1971:  # the server counts only from the end of the first request
        return None
    if server.keeps or year >= FOREVER:
        return "for ever" if year >= FOREVER else f"until {until[:19]}"
    if said is None or said.quiet != "yes":  # a request without keep_alive has just renewed the time of an asked model
        return None
    try:
        left = (_time(until) - _time(str(said.last["created_at"]))).total_seconds()
    except (ValueError, KeyError, TypeError):
        return None
    wanted = duration_seconds(server.keep_alive)
    seconds = wanted if math.isclose(left, wanted, rel_tol=0.02, abs_tol=SLACK) else round(left)
    return f"{seconds:g} s after a request"


def _time(text: str) -> datetime:
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))


def unkept(server: Server, names: Iterable[str]) -> dict[str, str]:
    """Return the models that stay loaded for another time than the instance's keep_alive says -> how long they stay.

    Args:
        server: of an instance.
        names: the declared models that are loaded.
    """
    entries = server.loaded or {}
    kept = {model: _kept(server, entries.get(model, {}), None) for model in sorted(map(canonical, names))}
    return {model: how for model, how in kept.items() if how is not None and (how == "for ever") != server.keeps}


def mend(server: Server, model: str, *, embeds: bool = False) -> str:
    """Return the command that gives a loaded model the instance's own keep_alive, without loading the model anew.

    Args:
        server: of the instance.
        model: the model.
        embeds: whether the model only embeds.
    """
    keep = int(server.keep_alive) if re.fullmatch(r"-?\d{1,9}", server.keep_alive) else server.keep_alive
    body = json.dumps({"model": model, "keep_alive": keep, **({"input": "."} if embeds else {})})
    path = "/api/embed" if embeds else "/api/generate"
    return f"curl --noproxy '*' -d {shlex.quote(body)} http://{server.at}{path}"


def held(server: Server) -> Check:
    """Return the proof that processes of the instance hold the memory that its server claims.

    Args:
        server: of the instance.
    """
    claim = f"{round(server.claim / server_state.MIB)} MiB"
    if server.holding.proved is None:
        why = server.holding.words
        name = f"{NOT_ASKED}whether its processes hold {claim} of its cards, as the server says: {why}"
        return Check(name, True, True)
    amount = server.holding.proved or f"{server.holding.words}: the server works on the CPU, whatever it reports"
    return Check(f"its processes hold {claim} of its cards, as the server says", amount, True)
