"""The merged inventory, for people."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from provision.inventory.model import Connection, Host, Inventory
from provision.inventory.secret import SHOWN, Secret
from provision.inventory.value import Value


def show(inventory: Inventory, host: str | None = None) -> dict[str, Any]:
    """Return everything that holds for every host, or for one, with secrets masked.

    Args:
        inventory: a loaded inventory.
        host: the name of the only host to show, or None.

    Returns:
        what JSON can hold: `{"inventory": path, "hosts": {name: {"groups", "connection", "settings", "variables",
        "instances"}}}`.

    Raises:
        UsageError: there is no such host.
    """
    hosts = inventory.hosts if host is None else (inventory.host(host),)
    return {"inventory": inventory.path, "hosts": {found.name: _host(found) for found in hosts}}


def _host(host: Host) -> dict[str, Any]:
    settings = {role: found.model_dump(mode="json") for role, found in host.settings.items()}
    return {
        "groups": list(host.groups),
        "connection": _connection(host.connection),
        "settings": {role: _masked(found, host.sources.get(role)) for role, found in settings.items()},
        "variables": _plain(host.variables),
        "instances": [_plain(dataclasses.asdict(instance)) for instance in host.instances],
    }


def _connection(connection: Connection) -> dict[str, Any]:
    fields = {field.name: getattr(connection, field.name) for field in dataclasses.fields(connection)}
    return {**_plain(fields), "jumps": [_connection(jump) for jump in connection.jumps]}


def _masked(data: Any, source: Value | None) -> Any:
    """Return settings with everything masked that was written as a secret, whatever the type of the field."""
    if source is None:
        return data
    if isinstance(source.data, Secret):
        return SHOWN
    if isinstance(data, dict) and isinstance(source.data, dict):
        return {key: _masked(item, source.data.get(key)) for key, item in data.items()}
    if isinstance(data, list) and isinstance(source.data, tuple):
        return [_masked(item, place) for item, place in zip(data, source.data, strict=False)]
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, Secret):
        return SHOWN
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
