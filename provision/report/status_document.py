"""The body of `provision status --json`."""

from collections.abc import Sequence
from typing import Any

from provision.actions.status import Status
from provision.actions.status_rows import BalancerRow, Finding, Latest, Row
from provision.report import console
from provision.report.keys import time_of
from provision.steps.card_load import CardLoad
from provision.steps.nginx.recent_log import Recent


def body(status: Status) -> dict[str, Any]:
    """Return the document's own keys.

    Args:
        status: the state of the fleet.
    """
    return {
        "time": time_of(int(status.at)),
        "window": status.window,
        "hosts": [_host(one, status) for one in status.hosts],
        "summary": {"hosts": len(status.hosts), "well": status.is_well, "states": dict(status.counts)},
    }


def _host(latest: Latest, status: Status) -> dict[str, Any]:
    name, error, run = latest.host.name, latest.error, latest.run
    rows = [row for row in status.rows if row.host == name]
    balancer = next((row for row in status.balancers if row.host == name), None)
    return {
        "host": name,
        "result": console.result_of(error) if error else "ok",
        "why": error.message if error else "",
        "age": None if latest.age is None else round(latest.age, 1),
        "findings": [each for row in rows if not row.instance for each in _findings(row.findings)],
        "instances": [_instance(row) for row in sorted(rows, key=lambda row: row.instance) if row.instance],
        "cards": _cards(latest),
        "balancer": _balancer(balancer) if balancer else None,
        "lock": str(latest.holder) if latest.holder else "",
        "run": {"run": run.run, "time": run.time, "command": run.command, "result": run.result} if run else None,
    }


def _findings(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [{"state": each.state, "why": each.why} for each in findings if each.state != "ok"]


def _cards(latest: Latest) -> list[dict[str, Any]]:
    instances = latest.reading.instances if latest.reading else None
    return [_card(card) for card in instances.load.cards.values()] if instances else []


def _card(card: CardLoad) -> dict[str, Any]:
    return {
        "uuid": card.uuid,
        "name": card.name,
        "used_mib": card.used_mib,
        "memory_mib": card.memory_mib,
        "busy_percent": card.busy,
        "celsius": card.celsius,
        "ecc_errors": card.errors,
        "slowed": card.slowed,
        "broken": card.broken,
    }


def _instance(row: Row) -> dict[str, Any]:
    drained = row.drained
    models = [{"model": one.name, "on_cards": one.on_cards, "context": one.context or None} for one in row.models or ()]
    return {
        "instance": row.instance,
        "state": row.state,
        "findings": _findings(row.findings),
        "cards": [card.uuid for card in row.cards],
        "models": None if row.models is None else models,
        "on_gpu": row.on_gpu,
        "proof": row.proof,
        "in_flight": row.in_flight,
        "tokens_per_second": None if row.per_second is None else round(row.per_second, 2),
        "drained": {"since": drained.since, "by": drained.by, "why": drained.why} if drained else None,
        **_requests(row.recent),
    }


def _requests(recent: Recent) -> dict[str, Any]:
    first = recent.quantile(0.95)
    return {
        "requests": recent.requests,
        "failed": recent.failed,
        "tokens": recent.tokens if recent.counted or not recent.requests else None,
        "ttft_p95": None if first is None else round(first, 3),
    }


def _balancer(row: BalancerRow) -> dict[str, Any]:
    balancer = row.balancer
    state, log = (balancer.state, balancer.log) if balancer else (None, None)
    return {
        "state": row.state,
        "findings": _findings(row.findings),
        "generation": state.generation if state else "",
        "certificate_end": f"{state.ends:%Y-%m-%d}" if state and state.ends else "",
        "certificate_days": row.days,
        "address": balancer.vip if balancer else "",
        "holds": balancer.holds if balancer else None,
        "in_flight": row.in_flight,
        "requests": row.requests,
        "refused": log.refused if log else None,
        "unserved": log.unserved if log else None,
        "covered": log.covered if log else None,
    }
