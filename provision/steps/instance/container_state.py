"""What Docker says of an instance's container, as the state of its step. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from provision.steps.base import State
from provision.steps.docker import inspect
from provision.steps.docker.inspect import Docker
from provision.steps.docker.probe import LABEL, Probe
from provision.steps.instance.container_options import environment, options
from provision.steps.instance.create_arguments import csv_field
from provision.steps.instance.engine import Engine

# Whose cards any daemon-reload takes (docs/facts.md#lost-cards): made while Docker had systemd make cgroups, it lived
# on when that was changed. Where Docker still has, another container would be no better.
LEFT = "systemd's, from before"
OWN = "as Docker makes it"


def state(found: Docker, name: str, engine: Engine, declared: Collection[str] = ()) -> State:
    """What is known of a container; None if there is none of that name.

    Args:
        found: what Docker has.
        name: of the container.
        engine: the one that is expected in it.
        declared: the variables that it is given.
    """
    item = found.containers.get(name)
    if item is None:
        return None
    labels = item["labels"] or {}
    if labels.get(inspect.MANAGED) != "1":
        return {"foreign": True, "image": item["image"], "status": item["status"]}
    current = found.pulled_id(item["image"]) or found.image_id(item["image"])
    return {
        "image": item["image"],
        "current": current in ("", item["image_id"]),
        "running": item["status"] == "running",
        "gpus": sorted(cards_of(item)),
        "sees": listed(item["sees"]) or [item["sees"][:200]],
        "answers": item["answers"][:200],
        "publish": published(item, engine.probe),
        "environment": environment(item, declared, engine.variables),
        "mounts": sorted(_mount(mount) for mount in item["mounts"] or ()),
        "restart": _restart(item["restart"] or {}),
        "memory": item["memory"] or 0,
        "cpus": item["cpus"] or 0,
        "pids": max(item["pids"] or 0, 0),
        "log": _log(item["log"] or {}),
        "privileged": bool(item["privileged"]),
        "devices": [device["PathOnHost"] for device in item["devices"] or ()],
        "options": [*options(item, engine.variables), *_engine_label(labels, engine)],
        "network": _network(item),
        "cgroup": LEFT if item["scope"] == "cgroupfs" else OWN,
        "run": labels.get("provision.run", ""),
    }


def _engine_label(labels: Mapping[str, str], engine: Engine) -> list[str]:
    """The label of another engine, as the option that gave it."""
    return [] if engine.probe.is_of(labels) else [f"--label {LABEL}={labels.get(LABEL, '')}"[:100]]


def cards_of(item: Mapping[str, Any]) -> list[str]:
    """The cards of a container as Docker was told: UUIDs or indices, `all`, or `first N`."""
    cards: list[str] = []
    for request in item["requests"] or ():
        cards += request.get("DeviceIDs") or []
        count = request.get("Count") or 0
        cards += ["all"] if count < 0 else [f"first {count}"] if count else []
    return cards


def published(item: Mapping[str, Any], probe: Probe) -> list[str]:
    """Where the server of a container can be reached, `ADDRESS:PORT`, and which other ports are published.

    Args:
        item: what Docker says of the container.
        probe: of its engine.
    """
    bindings = probe.bindings(item["ports"])
    found = [f"{binding['HostIp'] or '0.0.0.0'}:{binding['HostPort']}" for binding in bindings]  # noqa: S104
    others = [f"{port} too" for port in item["ports"] or {} if port != f"{probe.port}/tcp"]
    return sorted(found) + sorted(others)


def _mount(mount: Mapping[str, Any]) -> str:
    source = mount.get("Name") if mount["Type"] == "volume" else mount["Source"]
    options = "" if mount.get("RW", True) else ",readonly"
    return f"type={mount['Type']},{csv_field(f'source={source}')},target={mount['Destination']}{options}"


def _network(item: Mapping[str, Any]) -> str:
    """The networks it is really on: one that was taken off the bridge by hand still has that in its settings."""
    return ",".join(name for name in item["networks"] if name) or "none"


def _restart(policy: Mapping[str, Any]) -> str:
    name = policy.get("Name") or "no"
    count = policy.get("MaximumRetryCount") or 0
    return f"{name}:{count}" if count else name


def _log(config: Mapping[str, Any]) -> dict[str, str]:
    return {"driver": config.get("Type", ""), **(config.get("Config") or {})}


def listed(text: str) -> list[str]:
    """The UUIDs in the output of `nvidia-smi -L`."""
    return sorted(re.findall(r"\(UUID: ([^)\s]+)\)", text))
