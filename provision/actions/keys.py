"""Give out, list, rotate and revoke the keys of clients. Changes a file of this machine, and connects to no host.

A balancer knows a change of the file after the next deploy.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from provision.actions.request import Request
    from provision.inventory import Inventory, Secret
    from provision.inventory.client_file import ClientFile, Limits, StoredKey

OVERLAP = 86400
"""Seconds for which the old keys of a client stay valid after a rotation."""


@dataclass(frozen=True)
class NewKey:
    """A new key.

    Args:
        key: the key itself, which is stored nowhere.
        stored: the hash of the key, with client and expiry.
        old: the client's older keys that are still valid, each with the end of the overlap.
        file: the changed file.
        remarks: sentences for the operator.
        networks: networks in which the client needs no key.
    """

    key: Secret
    stored: StoredKey
    old: Sequence[StoredKey]
    file: Path
    remarks: Sequence[str] = ()
    networks: Sequence[str] = ()


@dataclass(frozen=True)
class Admitted:
    """A new client without a key.

    Args:
        client: name of the client.
        networks: networks in which the client needs no key.
        file: the changed file.
        remarks: sentences for the operator.
    """

    client: str
    networks: Sequence[str]
    file: Path
    remarks: Sequence[str] = ()


@dataclass(frozen=True)
class Revoked:
    """Revoked keys.

    Args:
        keys: the keys that this call has revoked.
        left: further keys of the same clients, which stay valid.
        file: the changed file.
        networks: networks in which the client needs a key from now on.
    """

    keys: Sequence[StoredKey]
    left: Sequence[StoredKey]
    file: Path
    networks: Sequence[str] = ()


@dataclass(frozen=True)
class Listed:
    """The clients and keys of a file.

    Args:
        clients: the clients and keys.
        now: seconds since 1970.
        file: the file.
    """

    clients: ClientFile
    now: int
    file: Path

    def keys(self, client: str) -> Sequence[StoredKey]:
        """Return the keys of a client, the newest first.

        Args:
            client: name of the client.
        """
        return [key for key in reversed(self.clients.keys) if key.client == client]

    def state(self, key: StoredKey) -> str:
        """Return the state of a key: `valid`, `old` (valid, and a newer key is valid too), `expired` or `revoked`.

        Args:
            key: a key of the file.
        """
        if key.revoked is not None:
            return "revoked"
        if not key.is_usable(self.now):
            return "expired"
        newest = next(other for other in self.keys(key.client) if other.is_usable(self.now))
        return "valid" if newest is key else "old"


def add(
    request: Request,
    name: str,
    limits: Limits | None = None,
    *,
    expires: int | None = None,
    file: str = "",
) -> NewKey:
    """Add a client with its first key.

    Args:
        request: the inventory.
        name: name of the client: a lower-case letter, then a-z, 0-9, `-` and `_`.
        limits: the rights of the client; None for every model without limits. Names of models and networks need not be
            canonical.
        expires: from when on the key is refused, in seconds since 1970; None for never.
        file: path of the file of clients; empty for `balancer.clients` of the inventory.

    Raises:
        UsageError: the client exists, a value is wrong, the client's pool has no instance, or no file is named.
        InventoryError: the inventory has problems.
    """
    from provision.inventory.client_file import Limits

    inventory, path = _place(request, file)
    rights = _rights(limits or Limits())
    remarks = _unserved(rights, inventory)
    with _changing(path) as (clients, write):
        changed, key = clients.added(name, rights, _now(request), expires)
        write(changed)
    return _new_key(changed, key, path, _now(request), remarks)


def admit(request: Request, name: str, limits: Limits, *, file: str = "") -> Admitted:
    """Add a client that needs no key in its networks, and has none.

    Args:
        request: the inventory.
        name: as for `add`.
        limits: the rights of the client, with networks. Names of models and networks need not be canonical.
        file: path of the file of clients; empty for `balancer.clients` of the inventory.

    Raises:
        UsageError: the client exists, a value is wrong, or no file is named.
        InventoryError: the inventory has problems.
    """
    inventory, path = _place(request, file)
    rights = _rights(limits)
    remarks = _unserved(rights, inventory)
    with _changing(path) as (clients, write):
        write(clients.admitted(name, rights))
    return Admitted(name, rights.networks, path, remarks)


def rotate(
    request: Request,
    name: str,
    *,
    overlap: int = OVERLAP,
    expires: int | None = None,
    file: str = "",
) -> NewKey:
    """Make a new key for a client. The client's older keys stay valid for a while.

    Args:
        request: the inventory.
        name: name of the client.
        overlap: for how many seconds older keys stay valid.
        expires: from when on the new key is refused, in seconds since 1970; None for never.
        file: path of the file of clients; empty for `balancer.clients` of the inventory.

    Raises:
        UsageError: no such client, a value is wrong, or no file is named.
        InventoryError: the inventory has problems.
    """
    _, path = _place(request, file)
    with _changing(path) as (clients, write):
        changed, key = clients.rotated(name, _now(request), overlap, expires)
        write(changed)
    return _new_key(changed, key, path, _now(request))


def revoke(request: Request, name: str, *, file: str = "") -> Revoked:
    """Revoke all keys and all networks of a client, or a single key.

    Args:
        request: the inventory.
        name: name of a client, or id of a key.
        file: path of the file of clients; empty for `balancer.clients` of the inventory.

    Raises:
        UsageError: no such client or key, no key in use and no network, or no file is named.
        InventoryError: the inventory has problems.
    """
    _, path = _place(request, file)
    now = _now(request)
    with _changing(path) as (clients, write):
        changed = clients.revoked(name, now)
        write(changed)
    before = {key.sha256 for key in clients.keys if key.revoked is None}
    gone = [key for key in changed.keys if key.revoked is not None and key.sha256 in before]
    names = {key.client for key in gone}
    left = [key for key in changed.keys if key.client in names and key.is_usable(now)]
    return Revoked(gone, left, path, [each for each in clients.networks if each not in changed.networks])


def listed(request: Request, *, file: str = "") -> Listed:
    """Return the clients and the keys of the file.

    Args:
        request: the inventory.
        file: path of the file of clients; empty for `balancer.clients` of the inventory.

    Raises:
        UsageError: the file cannot be read, or no file is named.
        InventoryError: the inventory has problems.
    """
    from provision.inventory import client_file

    _, path = _place(request, file)
    return Listed(client_file.load(path), _now(request), path)


def _now(request: Request) -> int:
    from provision.actions.asking import setup_of

    return int(setup_of(request).clock())


def _place(request: Request, file: str) -> tuple[Inventory | None, Path]:
    """Return the inventory, where the inventory names the file, and the file.

    Raises:
        UsageError: no balancer of the inventory has a file, or two have different files.
    """
    from provision.inventory import paths, shared_settings, topology
    from provision.plan import role_interface

    if file:
        return None, paths.expanded(file).resolve()
    inventory = role_interface.load(request.inventory, request.overrides, served=False)
    balancers = [host for host in inventory.hosts if topology.is_balancing(host, inventory)]
    files = dict.fromkeys(filter(None, (shared_settings.balancer(host).clients for host in balancers)))
    if not files:
        hint = "write `balancer: {router: njs, clients: clients.json}` into the inventory, or give --clients FILE"
        raise UsageError(f"{request.inventory} names no file of clients", hint)
    if len(files) > 1:
        raise UsageError(f"the balancers have different files of clients: {', '.join(files)}", "give --clients FILE")
    return inventory, paths.beside(next(iter(files)), inventory.path).resolve()


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[tuple[ClientFile, Callable[[ClientFile], None]]]:
    """Give the clients of a file, and a function that writes the changed clients. Nobody else writes in between."""
    from provision.inventory import client_file

    with client_file.locked(path):
        yield client_file.load(path), lambda changed: client_file.save(path, changed)


def _new_key(clients: ClientFile, key: str, path: Path, now: int, remarks: Sequence[str] = ()) -> NewKey:
    from provision.inventory import Secret

    stored = clients.keys[-1]
    old = [other for other in clients.keys[:-1] if other.client == stored.client and other.is_usable(now)]
    return NewKey(Secret(key), stored, old, path, remarks, clients.clients[stored.client].networks)


def _rights(limits: Limits) -> Limits:
    """Return rights with canonical names of models and networks, each once."""
    from provision.inventory import client_networks

    models = None if limits.models is None else tuple(dict.fromkeys(map(_canonical, limits.models)))
    networks = tuple(dict.fromkeys(map(client_networks.canonical, limits.networks)))
    return dataclasses.replace(limits, models=models, networks=networks)


def _canonical(model: str) -> str:
    """Return the form of a model's name that a balancer compares."""
    from provision.steps import engines

    return engines.canonical(model).lower()


def _unserved(limits: Limits, inventory: Inventory | None) -> list[str]:
    """Return a sentence about each model of a client that no instance of the client's pool serves.

    Raises:
        UsageError: the client's pool has no instance.
    """
    if inventory is None:
        return []
    own = [each for host in inventory.hosts for each in host.instances if each.pool == limits.pool]
    if limits.pool and not own:
        hint = f"write `pool: {limits.pool}` for the instances of the pool first"
        raise UsageError(f"no instance of the inventory belongs to the pool {limits.pool}", hint)
    served = {_canonical(model) for instance in own for model in instance.names}
    where = f" of the pool {limits.pool}" if limits.pool else ""
    strange = [model for model in limits.models or () if model not in served]
    return [f"no instance of the inventory{where} serves {model}" for model in strange]
