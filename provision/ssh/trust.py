"""Host keys, and the known_hosts file.

No key is trusted on first sight: a person compares the fingerprints with the host's console.
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
        name: the host in known_hosts: `address`, or `[address]:port`.
        kind: key type, such as `ssh-ed25519`.
        blob: the key, base64.
    """

    name: str
    kind: str
    blob: str

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ssh-keygen -l shows it: `SHA256:...`."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        """The line of known_hosts."""
        return f"{self.name} {self.kind} {self.blob}"


def name_of(connection: Connection) -> str:
    """Return the name of a host in known_hosts."""
    name = connection.host_key_alias or connection.address
    return name if connection.port == 22 or connection.host_key_alias else f"[{name}]:{connection.port}"


def scan(connection: Connection) -> Key:
    """Ask a host for its key. Sends nothing that needs trust: there is no login.

    Raises:
        UnreachableError: the host does not answer, or the key of a jump host is not trusted yet.
    """
    with contextlib.closing(open_transport(connection)) as transport:
        key = transport.get_remote_server_key()
    return Key(name_of(connection), key.get_name(), key.get_base64())


def known(connection: Connection) -> list[Key]:
    """Return the keys of a host in its known_hosts files."""
    name = name_of(connection)
    keys = paramiko.HostKeys()
    for path in connection.known_hosts:
        with contextlib.suppress(FileNotFoundError):
            keys.load(path)
    keys_by_kind: dict[str, paramiko.PKey] = dict(keys.lookup(name) or {})
    return [Key(name, kind, key.get_base64()) for kind, key in keys_by_kind.items()]


def state(key: Key, have: list[Key]) -> str:
    """Return `known`, `new`, or `CHANGED`: known_hosts has another key of the same type. A host has a key of every
    type.

    Args:
        key: the key that the host shows.
        have: the known keys of the host.
    """
    if key in have:
        return "known"
    return "CHANGED" if any(other.kind == key.kind for other in have) else "new"


def _names(line: str, name: str) -> bool:
    """Whether a line of known_hosts is about a name, which may be hashed (ssh_config's HashKnownHosts)."""
    fields = line.split(None, 1)[:1]
    return any(word == name or _hashed(word, name) for field in fields for word in field.split(","))


def _hashed(field: str, name: str) -> bool:
    if not field.startswith("|1|"):
        return False
    try:
        return paramiko.HostKeys.hash_host(name, field) == field
    except (ValueError, IndexError, AssertionError):  # no hash that ssh made
        return False


def write(path: Path, keys: list[Key], *, replace: bool) -> None:
    """Add keys to a known_hosts file. The file is replaced as a whole, never half-written.

    Args:
        path: the file; made with its folder (0700, 0600) if absent.
        keys: the keys to add.
        replace: whether to remove lines of the same names first.
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
