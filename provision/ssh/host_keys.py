"""Host keys: errors for an unknown or changed key."""

import paramiko

from provision.errors import HostKeyError
from provision.inventory import Connection


class KnownHostsOnly(paramiko.MissingHostKeyPolicy):
    """Refuses every key that is not in known_hosts, as ssh does with StrictHostKeyChecking=yes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        alias = self.connection.host_key_alias
        known = client.get_host_keys().lookup(alias) or client._system_host_keys.lookup(alias) if alias else None  # type: ignore[attr-defined]
        if known and known.get(key.get_name()) == key:
            return
        files = ", ".join(self.connection.known_hosts)
        raise HostKeyError(
            f"the host key of {hostname} is not known ({key.get_name()} {key.fingerprint})",
            f"compare it on the host's console, then: provision trust (it writes to {files})",
        )


def changed(where: str, error: paramiko.BadHostKeyException) -> HostKeyError:
    """Make the error for a host that shows a different key than known_hosts has.

    Args:
        where: address and port of the host.
        error: with both keys.
    """
    return HostKeyError(
        f"the host key of {where} has CHANGED: known is {error.expected_key.fingerprint}, "
        f"it shows {error.key.fingerprint}",
        "another machine answers, or the host was reinstalled: find out which; then provision trust --replace",
    )
