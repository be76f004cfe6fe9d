"""The state of a container's step, from the state of Docker. Pure."""

import itertools
import re
from collections.abc import Collection, Mapping
from typing import Any

from provision.steps.base import State
from provision.steps.docker import inspect, network
from provision.steps.docker.inspect import Docker
from provision.steps.docker.probe import LABEL, Probe
from provision.steps.instance.container_options import environment, options
from provision.steps.instance.create_arguments import BRIDGE, csv_field
from provision.steps.instance.engine import Engine

# The cgroup of a container that loses its cards at any daemon-reload (docs/facts.md#lost-cards): made while systemd
# made cgroups for Docker, still running after a change to cgroupfs, and with cards that systemd does not know. While
# Docker still uses systemd, a new container would be no better.
LEFT = "systemd's, from before"
OWN = "as Docker makes it"
GONE = " (removed)"  # follows the name of a network that is gone from the host


def state(docker: Docker, name: str, engine: Engine, declared: Collection[str] = ()) -> State:
    """Return the state of a container; None if there is no container with the name.

    Args:
        docker: the state of Docker.
        name: the name of the container.
        engine: the expected engine.
        declared: the variables of the instance.
    """
    item = docker.containers.get(name)
    if item is None:
        return None
    labels = item["labels"] or {}
    if labels.get(inspect.MANAGED) != "1":
        return {"foreign": True, "image": item["image"], "status": item["status"]}
    current = docker.pulled_id(item["image"]) or docker.image_id(item["image"])
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
        "network": _network(item, docker),
        "cgroup": LEFT if item["scope"] == "cgroupfs" and item["loses"] else OWN,
        "run": labels.get("provision.run", ""),
    }


def _engine_label(labels: Mapping[str, str], engine: Engine) -> list[str]:
    """Return the label of another engine, as the option of the label."""
    return [] if engine.probe.is_of(labels) else [f"--label {LABEL}={labels.get(LABEL, '')}"[:100]]


def cards_of(item: Mapping[str, Any]) -> list[str]:
    """Return the cards of a container as given to Docker: UUIDs or indices, `all`, or `first N`."""
    cards: list[str] = []
    for request in item["requests"] or ():
        cards += request.get("DeviceIDs") or []
        count = request.get("Count") or 0
        cards += ["all"] if count < 0 else [f"first {count}"] if count else []
    return cards


def published(item: Mapping[str, Any], probe: Probe) -> list[str]:
    """Return the addresses of a container's server, `ADDRESS:PORT`, and further published ports.

    Args:
        item: a container, as in `inspect.Docker`.
        probe: of its engine.
    """
    bindings = probe.bindings(item["ports"])
    addresses = [f"{binding['HostIp'] or '0.0.0.0'}:{binding['HostPort']}" for binding in bindings]  # noqa: S104
    others = [f"{port} too" for port in item["ports"] or {} if port != f"{probe.port}/tcp"]
    return sorted(addresses) + sorted(others)


def _mount(mount: Mapping[str, Any]) -> str:
    source = mount.get("Name") if mount["Type"] == "volume" else mount["Source"]
    options = "" if mount.get("RW", True) else ",readonly"
    return f"type={mount['Type']},{csv_field(f'source={source}')},target={mount['Destination']}{options}"


def _network(item: Mapping[str, Any], docker: Docker) -> str:
    """Return the actual networks: a container taken off the bridge by hand still has the bridge in its settings.

    A container means its network by an id, and cannot start in another network of the same name.
    """
    ids = item.get("network_ids") or ()
    pairs = itertools.zip_longest(item["networks"], ids[: len(item["networks"])])
    return ",".join(f"{name}{_gone(name, at, docker)}" for name, at in pairs if name) or "none"


def _gone(name: str, at: str | None, docker: Docker) -> str:
    """Return the word for an instance's own network that was removed, or else nothing."""
    if not at or not network.instance_of(name):
        return ""
    return "" if docker.networks.get(name, {}).get("Id") == at else GONE


def _restart(policy: Mapping[str, Any]) -> str:
    name = policy.get("Name") or "no"
    count = policy.get("MaximumRetryCount") or 0
    return f"{name}:{count}" if count else name


def _log(config: Mapping[str, Any]) -> dict[str, str]:
    return {"driver": config.get("Type", ""), **(config.get("Config") or {})}


def listed(text: str) -> list[str]:
    """Return the UUIDs in the output of `nvidia-smi -L`. A container that was given MIG devices also sees the card of
    each device, which no program can use (docs/facts.md#mig)."""
    uuids = re.findall(r"\(UUID: ([^)\s]+)\)", text)
    return sorted([uuid for uuid in uuids if uuid.startswith("MIG-")] or uuids)


def past_network(past: Mapping[str, Any]) -> str:
    """Return the network of a past state, which may have been removed since.

    Args:
        past: the state of a container.
    """
    return str(past.get("network", BRIDGE)).removesuffix(GONE)
