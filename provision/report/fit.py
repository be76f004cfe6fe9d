"""Prints what fits into cards: a judgement with its terms, and the table of cards and models."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from provision.actions.fit import Cell, Fit, Table
from provision.capacity.catalogue import MODELS, QUANTISATIONS
from provision.capacity.estimate import Estimate, Request
from provision.capacity.verdict import MOST_CARDS, Kind, gib
from provision.report import console, layout
from provision.report.console import say

TERMS = {
    "weights": "weights",
    "kv_cache": "cache of the context",
    "compute": "compute buffer",
    "cuda_context": "CUDA process",
    "margin": "margin",
}
NO_HOSTS: dict[str, Any] = {"places": [], "measured": [], "hosts": []}
LABEL = 20
CELL = 5
AT_ONCE = 4  # models side by side: 20 + 4 x 3 x 5 columns
SHORT = {"Q4_K_M": "Q4", "Q8_0": "Q8", "F16": "F16"}


def show(fit: Fit, *, as_json: bool) -> None:
    """Print a judgement, or its JSON document.

    Args:
        fit: the judgement.
        as_json: whether the document is wanted.
    """
    if as_json:
        _document(fit)
        return
    for remark in fit.remarks:
        console.warn(remark)
    say(fit.verdict.sentence, hang=2)
    say()
    columns = [("as asked, one card", fit.verdict.need)]
    if fit.verdict.kind is not Kind.FITS or len(fit.verdict.shares) > 1:
        columns += [(f"card {number}", share) for number, share in enumerate(fit.verdict.shares, 1)][:2]
    head = "".join(f"{name:>18}" for name, _ in columns)
    say(f"{'GiB, estimated':24}{head}")
    for field, label in TERMS.items():
        say(f"{label:24}" + "".join(f"{gib(getattr(terms, field)):>18}" for _, terms in columns))
    say(f"{'sum':24}" + "".join(f"{gib(terms.total):>18}" for _, terms in columns))
    more = len(fit.verdict.shares) - 2
    if len(columns) > 1 and more > 0:
        say(f"and {layout.count(more, 'more card')}; --json has the terms of each")


def show_table(table: Table, *, as_json: bool) -> None:
    """Print the table, or its JSON document.

    Args:
        table: the table.
        as_json: whether the document is wanted.
    """
    if as_json:
        rows = [
            {"card": card.name, "free": card.free, "cells": [dataclasses.asdict(cell) for cell in cells]}
            for card, cells in table.rows
        ]
        console.document("fit", 0, [], request=_request(table.request), fit=None, table=rows, **NO_HOSTS)
        return
    asked = table.request
    say(f"estimate: context {asked.context} x {asked.parallel}, cache {asked.cache_type}, all of a model on cards")
    say("  yes  one card is enough           12k  one card, with at most 12 x 1024 tokens")
    say(f"  2x   two such cards are needed    -    {MOST_CARDS} such cards are too few")
    names = list(MODELS)
    for first in range(0, len(names), AT_ONCE):
        say()
        _block(table, names[first : first + AT_ONCE])


def _block(table: Table, models: list[str]) -> None:
    """Print some models of the table. Cards with equal cells share a row."""
    wide = CELL * len(QUANTISATIONS)
    title = models[0].partition(":")[0]
    say(f"{title:{LABEL}}" + "".join(f"{name.partition(':')[2]:>{wide}}" for name in models).rstrip())
    say(" " * LABEL + "".join(f"{SHORT[kind]:>{CELL}}" for _ in models for kind in QUANTISATIONS))
    rows: dict[str, list[str]] = {}
    for card, cells in sorted(table.rows, key=lambda row: -row[0].free):
        text = "".join(f"{_cell(cell):>{CELL}}" for cell in cells if cell.model in models)
        rows.setdefault(text, []).append(card.name)
    for text, names in rows.items():
        label = _label(names)
        say(f"{label[0]:{LABEL}}{text}")
        for more in label[1:]:
            say(more)


def _label(names: list[str]) -> list[str]:
    """Return the names of cards in lines of the first column; a series is named once."""
    lines = [names[0]]
    for before, name in itertools.pairwise(names):
        series, _, rest = name.partition(" ")
        short = rest if series == "RTX" and before.startswith("RTX ") else name
        if len(lines[-1]) + len(short) + 3 > LABEL:
            lines[-1] += ","
            lines.append(short)
        else:
            lines[-1] += f", {short}"
    return lines


def _cell(cell: Cell) -> str:
    if cell.fits:
        return "yes"
    if cell.context:
        return f"{cell.context // 1024}k"
    return f"{cell.cards}x" if cell.cards else "-"


def _document(fit: Fit) -> None:
    verdict = fit.verdict
    body = {
        "model": fit.dimensions.name,
        "source": fit.dimensions.source,
        "kind": verdict.kind.value,
        "sentence": verdict.sentence,
        "cards": [{"name": card.name, "free": card.free} for card in fit.cards],
        "cards_needed": verdict.cards_needed,
        "proposal": verdict.proposal and _request(verdict.proposal),
        "need": _terms(verdict.need),
        "shares": [_terms(share) for share in verdict.shares],
    }
    asked = _request(verdict.wanted)
    console.document("fit", fit.exit_code, fit.remarks, request=asked, fit=body, table=[], **NO_HOSTS)


def _request(request: Request) -> dict[str, Any]:
    return {"context": request.context, "parallel": request.parallel, "cache_type": request.cache_type}


def _terms(terms: Estimate) -> dict[str, int]:
    return {**dataclasses.asdict(terms), "total": terms.total}
