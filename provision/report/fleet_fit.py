"""Prints what fits on the hosts of an inventory, and loaded models beside their estimate."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from provision.actions.fleet_fit import Measured, Place
from provision.actions.results import Answers
from provision.capacity.estimate import Request
from provision.capacity.verdict import gib
from provision.errors import HostError
from provision.report import console
from provision.report.console import failures, say
from provision.report.fit import NO_HOSTS
from provision.report.layout import paint
from provision.terminal_text import line

if TYPE_CHECKING:
    from provision.steps.ollama.measured_size import Size

NONE = "-"


def show_places(found: Answers[tuple[Place, ...]], request: Request, *, as_json: bool) -> None:
    """Print the proposal for every place, and where each model can be served.

    Args:
        found: the places of every host, or the host's error.
        request: what each model has to serve.
        as_json: whether the document is wanted.
    """
    places = _all(found)
    if as_json:
        rows = [
            {
                "place": place.label,
                "cards": [{"name": card.name, "free": card.free} for card in place.cards],
                "model": place.model,
                "context": place.context,
                "reason": place.reason,
            }
            for place in places
        ]
        body = _body(request, places=rows, hosts=_hosts(found))
        console.document("fit", found.exit_code, found.inventory.warnings, **body)
        return
    say(f"proposal by estimate: context {request.context} x {request.parallel}, cache {request.cache_type}")
    for place in places:
        what = f"{place.model}, context {place.context}" if place.model else NONE
        say(f"  {line(place.label):24} {paint(what, 'bold')}")
        say(f"      {line(place.reason)}", hang=6)
    for model in dict.fromkeys(place.model for place in places if place.model):
        say(f"{model}: {', '.join(line(place.label) for place in places if place.model == model)}", hang=2)
    _failures(found)


def show_measured(found: Answers[tuple[Measured, ...]], request: Request, *, as_json: bool) -> None:
    """Print every declared or loaded model with its size now, its kept size, and its estimate.

    Args:
        found: the models of every host, or the host's error.
        request: of the command; the servers' own settings decide.
        as_json: whether the document is wanted.
    """
    rows: list[Measured] = _all(found)
    if as_json:
        body = _body(request, measured=[_measured(row) for row in rows], hosts=_hosts(found))
        console.document("fit", found.exit_code, found.inventory.warnings, **body)
        return
    heads = ("NOW", "KEPT", "ON CARDS", "ESTIMATE", "DIFFERS", "CONTEXT")
    say(f"{'GiB':24}" + "".join(f"  {head:>8}" for head in heads) + "  MODEL")
    for row in rows:
        cells = "".join(f"  {text:>8}" for text in _cells(row))
        say(f"{line(row.label):24}{cells}  {line(row.model)}" + (f"  ({line(row.why)})" if row.why else ""))
    if not rows:
        say("no model is declared or loaded")
    _failures(found)


def _cells(row: Measured) -> tuple[str, ...]:
    """Return the figures of a row: sizes in GiB, the difference in percent of the estimate, the context in tokens."""
    best, differs = row.best, row.difference
    return (
        gib(row.size.size) if row.size else NONE,
        gib(row.kept.size.size) if row.kept else NONE,
        gib(best.on_cards) if best else NONE,
        gib(row.estimated) if row.need else NONE,
        NONE if differs is None else f"{differs:+.1f} %",
        str(best.context) if best else NONE,
    )


def _measured(row: Measured) -> dict[str, Any]:
    """Return the document of a row. The figures are those of now, else the kept ones; 0 without both."""
    best, kept = row.best, row.kept
    return {
        "instance": row.label,
        "model": row.model,
        "context": best.context if best else 0,
        "measured": best.size if best else 0,
        "on_cards": best.on_cards if best else 0,
        "is_loaded": row.size is not None,
        "kept": kept and {**_size(kept.size), "at": kept.at},
        "estimated": row.estimated,
        "difference": row.difference,
        "terms": row.need and {**dataclasses.asdict(row.need), "total": row.need.total},
        "why": row.why,
    }


def _size(size: Size) -> dict[str, int]:
    return {"size": size.size, "on_cards": size.on_cards, "context": size.context}


def _all(found: Answers[tuple[Any, ...]]) -> list[Any]:
    """Return the rows of all hosts that answered."""
    return [row for _, rows in found.hosts if not isinstance(rows, HostError) for row in rows]


def _hosts(found: Answers[tuple[Any, ...]]) -> list[dict[str, str]]:
    """Return every host with its result, and the reason and the next action of a failed host."""
    rows = []
    for host, answer in found.hosts:
        error = answer if isinstance(answer, HostError) else None
        result, words = ("ok", ("", "")) if error is None else (console.result_of(error), (error.message, error.hint))
        rows.append({"host": host.name, "result": result, "why": words[0], "hint": words[1]})
    return rows


def _failures(found: Answers[tuple[Any, ...]]) -> None:
    failures(((host.name, answer) for host, answer in found.hosts if isinstance(answer, HostError)), found.inventory)


def _body(request: Request, **rows: Any) -> dict[str, Any]:
    """Return the body of a document of `fit`."""
    asked = {"context": request.context, "parallel": request.parallel, "cache_type": request.cache_type}
    return {"request": asked, "fit": None, "table": [], **NO_HOSTS, **rows}
