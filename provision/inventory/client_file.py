"""The operator's file of clients and of the hashes of their keys. A key itself is shown once and stored nowhere.

The file is JSON with mode 0600, beside the inventory:

    {"clients": {"alice": {"models": ["tiny:latest"], "concurrency": 4, "rate": 60, "tokens_per_day": 0, "pool": ""}},
     "keys": [{"sha256": "...", "client": "alice", "made": 1796083200, "expires": null, "revoked": null}]}

A client may have `networks` too, such as `["10.0.0.0/8"]`: requests from there need no key.
All times are seconds since 1970 (UTC). A key has 192 random bits, so a fast hash is enough: nobody can try that many.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import UsageError
from provision.inventory import client_networks

PREFIX = "sk-prov-"
RANDOM_BYTES = 24
ID_DIGITS = 8
LARGEST = 8 << 20
MOST = {"concurrency": 65_535, "rate": 1_000_000, "tokens_per_day": 10**12}
"""The greatest limits. nginx takes no greater number of requests at once (ngx_http_limit_conn_module.c)."""
NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MODEL = re.compile(r"[a-z0-9][a-z0-9._/:-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Limits:
    """The rights of a client.

    Args:
        models: names of models, canonical and in lower case; None for all models.
        concurrency: greatest number of requests at once; 0 for no limit.
        rate: greatest number of requests in a minute; 0 for no limit.
        tokens_per_day: tokens of a day (UTC); 0 for no limit.
        pool: the client's own pool of instances; empty for the common pool.
        networks: networks in which the client needs no key, in their short form.
    """

    models: tuple[str, ...] | None = None
    concurrency: int = 0
    rate: int = 0
    tokens_per_day: int = 0
    pool: str = ""
    networks: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoredKey:
    """The hash of a key.

    Args:
        sha256: sha256 of the key, in hexadecimal digits.
        client: name of the client.
        made: when the key was made.
        expires: from when on the key is refused; None for never.
        revoked: when the key was revoked; None for a key in use.
    """

    sha256: str = field(repr=False)
    client: str
    made: int
    expires: int | None = None
    revoked: int | None = None

    @property
    def id(self) -> str:
        """The first digits of the hash, which name the key in the balancer's log."""
        return self.sha256[:ID_DIGITS]

    def is_usable(self, now: int) -> bool:
        """Return whether a balancer takes the key at a time in seconds since 1970."""
        return self.revoked is None and (self.expires is None or now < self.expires)


@dataclass(frozen=True)
class ClientFile:
    """All clients and keys.

    Args:
        clients: name -> rights.
        keys: the keys, oldest first.
    """

    clients: Mapping[str, Limits] = field(default_factory=dict)
    keys: tuple[StoredKey, ...] = ()

    def added(self, name: str, limits: Limits, now: int, expires: int | None = None) -> tuple["ClientFile", str]:
        """Return the file with a new client and its first key, and the key.

        Args:
            name: name of the client.
            limits: the rights.
            now: seconds since 1970.
            expires: from when on the key is refused; None for never.

        Raises:
            UsageError: the client exists, or a value is wrong.
        """
        return self._with_client(name, limits)._with_key(name, now, expires)

    def admitted(self, name: str, limits: Limits) -> "ClientFile":
        """Return the file with a new client that has networks, and no key.

        Args:
            name: name of the client.
            limits: the rights, with networks.

        Raises:
            UsageError: the client exists, or a value is wrong.
        """
        made = self._with_client(name, limits)
        if not limits.networks:
            raise UsageError(f"a client without a key needs a network, and {name[:64]!r} has none")
        return made._checked()

    def rotated(self, name: str, now: int, overlap: int, expires: int | None = None) -> tuple["ClientFile", str]:
        """Return the file with a new key of a client, and the key. Older keys of the client expire after the overlap.

        Args:
            name: name of the client.
            now: seconds since 1970.
            overlap: for how many seconds older keys stay valid.
            expires: from when on the new key is refused; None for never.

        Raises:
            UsageError: no such client, or a value is wrong.
        """
        self._known(name)
        if overlap < 0:
            raise UsageError("the overlap of two keys must be 0 seconds or longer")
        end = now + overlap
        keys = [
            dataclasses.replace(key, expires=min(end, key.expires or end))
            if key.client == name and key.is_usable(now)
            else key
            for key in self.keys
        ]
        return dataclasses.replace(self, keys=tuple(keys))._with_key(name, now, expires)

    def revoked(self, name: str, now: int) -> "ClientFile":
        """Return the file in which a client has no valid key and no network, or in which the key of an id is revoked.

        Args:
            name: name of a client, or id of a key.
            now: seconds since 1970.

        Raises:
            UsageError: no such client or key, or no key in use and no network.
        """
        is_id = any(key.id == name for key in self.keys) and name not in self.clients
        if not is_id:
            self._known(name)
        chosen = {key for key in self.keys if key.revoked is None and (key.id if is_id else key.client) == name}
        admitted = () if is_id else self.clients[name].networks
        if not chosen and not admitted:
            raise UsageError(f"{name} has no key in use", "`provision keys list` shows the keys")
        keys = (dataclasses.replace(key, revoked=now) if key in chosen else key for key in self.keys)
        closed = {name: dataclasses.replace(self.clients[name], networks=())} if admitted else {}
        return ClientFile({**self.clients, **closed}, tuple(keys))

    def _with_client(self, name: str, limits: Limits) -> "ClientFile":
        _no_key(name)
        if name in self.clients:
            raise UsageError(f"the client {name} exists", f"`provision keys rotate {name}` makes a new key")
        return dataclasses.replace(self, clients={**self.clients, name: limits})

    def _checked(self) -> "ClientFile":
        if problem := next(_problems(self.document), ""):
            raise UsageError(problem)
        return self

    def _with_key(self, name: str, now: int, expires: int | None) -> tuple["ClientFile", str]:
        if expires is not None and expires <= now:
            raise UsageError("the key would expire before its first use")
        key = PREFIX + secrets.token_hex(RANDOM_BYTES)
        stored = StoredKey(hashlib.sha256(key.encode()).hexdigest(), name, now, expires)
        return dataclasses.replace(self, keys=(*self.keys, stored))._checked(), key

    def _known(self, name: str) -> None:
        _no_key(name)
        if name not in self.clients:
            names = ", ".join(sorted(self.clients)[:20]) or "none"
            raise UsageError(f"there is no client or key {name[:64]!r}", f"the clients are: {names}")

    @property
    def networks(self) -> dict[str, str]:
        """Network -> name of the client that needs no key there."""
        return {network: name for name, limits in self.clients.items() for network in limits.networks}

    @property
    def document(self) -> dict[str, Any]:
        """The file as data. A client without networks has no word about networks."""
        rights = {name: dataclasses.asdict(limits) for name, limits in self.clients.items()}
        return {
            "clients": {
                name: {right: value for right, value in entry.items() if right != "networks" or value}
                for name, entry in rights.items()
            },
            "keys": [dataclasses.asdict(key) for key in self.keys],
        }


def _no_key(name: str) -> None:
    """Refuse a key in place of a name, without showing the key.

    Raises:
        UsageError: the name begins as keys do.
    """
    if name.startswith(PREFIX):
        raise UsageError(
            "a key stands where a name is wanted: every user of this machine can read the words of a command, so the"
            " key is no longer secret",
            "rotate the client's key and revoke this key by its id, the first 8 digits of its sha256 (see keys list)",
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands of this machine from changing the file, between a load and a save.

    Args:
        path: the file.

    Raises:
        UsageError: the folder of the file does not exist or cannot be read.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"{path.parent} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def load(path: Path) -> ClientFile:
    """Return the clients of a file; a missing file has no clients.

    Args:
        path: the file.

    Raises:
        UsageError: the file is unreadable, readable by others, too large, or wrong; the text names the place.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        return ClientFile()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if mode & 0o077:
        raise UsageError(f"{path} has mode {mode:04o}: others may read the file", f"type chmod 600 {path}")
    if len(data) > LARGEST:
        raise UsageError(f"{path} is larger than {LARGEST} bytes")
    try:
        document = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
    if problem := next(_problems(document), ""):
        raise UsageError(f"{path}: {problem}")
    clients = {
        name: Limits(
            **{
                **entry,
                "models": None if entry.get("models") is None else tuple(entry["models"]),
                "networks": tuple(entry.get("networks", ())),
            }
        )
        for name, entry in document["clients"].items()
    }
    return ClientFile(clients, tuple(StoredKey(**entry) for entry in document["keys"]))


def save(path: Path, clients: ClientFile) -> None:
    """Write the clients into a file with mode 0600. A reader sees the old or the new file, never a part.

    Args:
        path: the file.
        clients: the clients.

    Raises:
        UsageError: the file cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(clients.document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON. Of two equal keys, such as a client twice after a merge, neither is the right one.

    Raises:
        ValueError: a key is there twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)[:64]!r} is twice in an object")
    return made


def _problems(document: Any) -> Iterator[str]:
    """Yield the problems of a document, each with its place."""
    if not isinstance(document, dict) or document.keys() != {"clients", "keys"}:
        yield "must be an object with `clients` and `keys`"
    elif not isinstance(document["clients"], dict):
        yield "clients: must be an object"
    elif not isinstance(document["keys"], list):
        yield "keys: must be a list"
    else:
        for name, entry in document["clients"].items():
            yield from _client_problems(name, entry)
        yield from client_networks.problems(document["clients"])
        yield from _key_problems(document["keys"], document["clients"])


def _client_problems(name: str, entry: Any) -> Iterator[str]:
    place = f"clients: {name[:64]!r}"
    if not NAME.fullmatch(name):
        yield f"{place}: a name has a lower-case letter, then at most 62 of a-z, 0-9, - and _"
    if not isinstance(entry, dict) or not entry.keys() <= {field.name for field in dataclasses.fields(Limits)}:
        yield f"{place}: must be an object with {', '.join(field.name for field in dataclasses.fields(Limits))}"
        return
    for limit, most in MOST.items():
        value = entry.get(limit, 0)
        if not _is_number(value) or value > most:
            yield f"{place}: {limit} must be a number from 0 to {most}"
    models = entry.get("models")
    if models is not None and not (isinstance(models, list | tuple) and all(map(_is_model, models))):
        yield f"{place}: models must be a list of canonical names in lower case, or null"
    pool = entry.get("pool", "")
    if not isinstance(pool, str) or (pool and not NAME.fullmatch(pool)):
        yield f"{place}: pool must be a name, or empty"


def _key_problems(keys: list[Any], clients: Mapping[str, Any]) -> Iterator[str]:
    seen: set[str] = set()
    for number, entry in enumerate(keys):
        place = f"keys[{number}]"
        if not isinstance(entry, dict) or entry.keys() != {field.name for field in dataclasses.fields(StoredKey)}:
            yield f"{place}: must be an object with sha256, client, made, expires and revoked"
            continue
        sha256 = entry["sha256"]
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            yield f"{place}: sha256 must be 64 hexadecimal digits: a key itself does not belong into the file"
        elif sha256 in seen:
            yield f"{place}: is in the file twice"
        else:
            seen.add(sha256)
        if not isinstance(entry["client"], str) or entry["client"] not in clients:
            yield f"{place}: client must be one of the clients"
        ends = [entry[end] for end in ("expires", "revoked") if entry[end] is not None]
        if not all(map(_is_number, (entry["made"], *ends))):
            yield f"{place}: made, expires and revoked must be seconds since 1970, the last two also null"


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_model(value: Any) -> bool:
    return isinstance(value, str) and _MODEL.fullmatch(value) is not None
