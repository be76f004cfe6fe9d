"""Host keys: what a host shows, and the known_hosts file that it is compared with.

Nothing is believed on first sight: the fingerprints are shown, and a person compares them with the host's console.
"""

import base64
import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import paramiko

from provision.inventory import Connection
from provision.ssh.connect import open_transport


@dataclass(frozen=True)
class Key:
    """A host's public key.

    Args:
        name: how known_hosts names the host: `address`, or `[address]:port`.
        kind: key type, such as `ssh-ed25519`.
        blob: the key, base64.
    """

    name: str
    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """As ssh-keygen -l shows it: `SHA256:...`."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        """The line of known_hosts."""
        return f"{self.name} {self.kind} {self.blob}"


def name_of(connection: Connection) -> str:
    """How known_hosts names a host."""
    name = connection.host_key_alias or connection.address
    return name if connection.port == 22 or connection.host_key_alias else f"[{name}]:{connection.port}"


def scan(connection: Connection) -> Key:
    """Ask a host for its key. Nothing is sent that needs trust: no login is tried.

    Raises:
        UnreachableError: it does not answer, or a jump host's key is not trusted yet.
    """
    with contextlib.closing(open_transport(connection)) as transport:
        key = transport.get_remote_server_key()
    return Key(name_of(connection), key.get_name(), key.get_base64())


def known(connection: Connection) -> list[Key]:
    """The keys that the host's known_hosts files have for it."""
    name = name_of(connection)
    keys = paramiko.HostKeys()
    for path in connection.known_hosts:
        with contextlib.suppress(FileNotFoundError):
            keys.load(path)
    found: dict[str, paramiko.PKey] = dict(keys.lookup(name) or {})
    return [Key(name, kind, key.get_base64()) for kind, key in found.items()]


def state(key: Key, have: list[Key]) -> str:
    """`known`, `new`, or `CHANGED`: another key of the same type is known. A host has a key of every type.

    Args:
        key: what the host shows.
        have: what is known of it.
    """
    if key in have:
        return "known"
    return "CHANGED" if any(one.kind == key.kind for one in have) else "new"


def _names(line: str, name: str) -> bool:
    """Whether a line of known_hosts is about this name, which it may have hashed (ssh_config's HashKnownHosts)."""
    fields = line.split(None, 1)[:1]
    return any(one == name or _hashed(one, name) for field in fields for one in field.split(","))


def _hashed(field: str, name: str) -> bool:
    if not field.startswith("|1|"):
        return False
    try:
        return paramiko.HostKeys.hash_host(name, field) == field
    except (ValueError, IndexError, AssertionError):  # no hash that ssh made
        return False


def write(path: Path, keys: list[Key], *, replace: bool) -> None:
    """Add keys to a known_hosts file, which is replaced as a whole and never half-written.

    Args:
        path: the file; made with its folder (0700, 0600) if it is not there.
        keys: what to add.
        replace: whether lines of the same names are taken away first.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines = path.read_text().splitlines() if path.exists() else []
    names = {key.name for key in keys} if replace else set()
    kept = [line for line in lines if not any(_names(line, name) for name in names)]
    text = "\n".join([*kept, *(key.line for key in keys if key.line not in kept)]) + "\n"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".known_hosts.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
    Path(temporary).replace(path)
