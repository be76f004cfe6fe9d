"""The merged inventory, for people."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from provision.inventory.model import Connection, Host, Inventory
from provision.inventory.secret import SHOWN, Secret
from provision.inventory.value import Value


def show(inventory: Inventory, host: str | None = None) -> dict[str, Any]:
    """Return everything that holds for every host, or for one host, with secrets masked.

    Args:
        inventory: a loaded inventory.
        host: the name of the only host to show, or None.

    Returns:
        values for JSON: `{"inventory": path, "hosts": {name: {"groups", "connection", "settings", "variables",
        "instances"}}}`.

    Raises:
        UsageError: the inventory has no such host.
    """
    hosts = inventory.hosts if host is None else (inventory.host(host),)
    return {"inventory": inventory.path, "hosts": {each.name: _host(each) for each in hosts}}


def _host(host: Host) -> dict[str, Any]:
    settings = {role: of_role.model_dump(mode="json") for role, of_role in host.settings.items()}
    return {
        "groups": list(host.groups),
        "connection": _connection(host.connection),
        "settings": {role: _masked(of_role, host.sources.get(role)) for role, of_role in settings.items()},
        "variables": jsonable(host.variables),
        "instances": [jsonable(dataclasses.asdict(instance)) for instance in host.instances],
    }


def _connection(connection: Connection) -> dict[str, Any]:
    fields = {field.name: getattr(connection, field.name) for field in dataclasses.fields(connection)}
    return {**jsonable(fields), "jumps": [_connection(jump) for jump in connection.jumps]}


def _masked(data: Any, source: Value | None) -> Any:
    """Mask every value that was written as a secret, whatever the type of the field."""
    if source is None:
        return data
    if isinstance(source.data, Secret):
        return SHOWN
    if isinstance(data, dict) and isinstance(source.data, dict):
        return {key: _masked(item, source.data.get(key)) for key, item in data.items()}
    if isinstance(data, list) and isinstance(source.data, tuple):
        return [_masked(item, place) for item, place in zip(data, source.data, strict=False)]
    return data


def jsonable(value: Any) -> Any:
    """Return a value of mappings, sequences and scalars for JSON, secrets masked."""
    if isinstance(value, Secret):
        return SHOWN
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def as_yaml(shown: Mapping[str, Any]) -> str:
    """Return the result of `show` as YAML for people."""
    text = yaml.safe_dump(dict(shown), sort_keys=False, allow_unicode=True, width=100)
    return str(text)
