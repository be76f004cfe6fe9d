"""The keys of hosts, compared with known_hosts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from provision.actions.request import Request
from provision.actions.results import Answers

if TYPE_CHECKING:
    from provision.inventory import Host
    from provision.ssh.transport import Transport
    from provision.ssh.trust import Key


@dataclass(frozen=True)
class SeenKey:
    """The key that one host shows.

    Args:
        key: the key.
        state: `known`, `new`, or `changed` where known_hosts has another key of the same type.
        others: types of the host's keys in known_hosts.
        file: the known_hosts file for the key.
    """

    key: Key
    state: str
    others: tuple[str, ...]
    file: str


def host_keys(request: Request) -> Answers[SeenKey]:
    """The keys that hosts show. No login is tried.

    Args:
        request: which hosts are asked.
    """
    from provision.actions.asking import ask
    from provision.ssh import trust

    def work(host: Host, _: Transport) -> SeenKey:
        key, have = trust.scan(host.connection), trust.known(host.connection)
        others = tuple(known.kind for known in have)
        return SeenKey(key, trust.state(key, have).lower(), others, host.connection.known_hosts[0])

    return ask(request, work)


def write_keys(seen: Sequence[SeenKey], *, replace: bool) -> dict[str, int]:
    """Write keys to their known_hosts files.

    Args:
        seen: the keys.
        replace: whether earlier keys of the same hosts are removed.

    Returns:
        how many keys each file got, by its path.
    """
    from provision.ssh import trust

    by_file: dict[str, list[Key]] = {}
    for key in seen:
        by_file.setdefault(key.file, []).append(key.key)
    for file, keys in by_file.items():
        trust.write(Path(file), keys, replace=replace)
    return {file: len(keys) for file, keys in by_file.items()}
