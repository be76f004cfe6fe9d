"""The instances chosen by the words of a command: host patterns, with the name of an instance or without."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from provision.errors import UsageError
from provision.inventory import Host, Inventory, patterns

Chosen = tuple[Host, tuple[str, ...]]
"""A host, and the names of the chosen instances on the host."""

SHOWN = 500  # characters of a hint that lists names


def chosen(inventory: Inventory, limit: Sequence[str], words: Sequence[str]) -> list[Chosen]:
    """The gpu hosts, each with its chosen instances, in the order of the inventory.

    Args:
        inventory: all hosts.
        limit: Ansible patterns of the only hosts to look at; empty for all hosts.
        words: `PATTERN` or `PATTERN/INSTANCE`. `!PATTERN` leaves hosts out, `&PATTERN` leaves out every host
            but its own.

    Raises:
        UsageError: a word means no instance of a gpu host.
    """
    hosts = [host for host in inventory.select(limit) if host.gpu]
    if not hosts:
        raise UsageError("--limit selects no gpu host", "instances are on the hosts of the group gpu")
    narrowing = [word for word in words if word[:1] in ("!", "&")]
    kept = {host.name for host in (patterns.select(hosts, narrowing) if narrowing else hosts)}
    names: dict[str, set[str]] = {}
    for word in [word for word in words if word not in narrowing] or ["all"]:
        for host, instances in _meant(hosts, word):
            names.setdefault(host.name, set()).update(instances)
    chosen = [
        (host, tuple(instance.name for instance in host.instances if instance.name in names.get(host.name, ())))
        for host in hosts
    ]
    left = [(host, instances) for host, instances in chosen if instances and host.name in kept]
    if not left:
        raise UsageError(f"no instance is selected by {' '.join(words)}"[:SHOWN])
    return left


def _meant(hosts: Sequence[Host], word: str) -> list[Chosen]:
    """The instances chosen by a word."""
    pattern, _, instance = (word, "", "") if word[:1] == "@" else word.partition("/")
    try:
        matching = patterns.select(hosts, [pattern])
    except UsageError:
        names = ", ".join(host.name for host in hosts)
        raise UsageError(f"no such gpu host: {pattern}"[:SHOWN], f"gpu hosts are {names}"[:SHOWN]) from None
    chosen = [(host, _named(host, instance or "*")) for host in matching]
    if not any(names for _, names in chosen):
        known = dict.fromkeys(each.name for host in matching for each in host.instances)
        raise UsageError(f"{pattern} has no instance {instance}"[:SHOWN], f"{pattern} has {', '.join(known)}"[:SHOWN])
    return chosen


def _named(host: Host, pattern: str) -> tuple[str, ...]:
    return tuple(instance.name for instance in host.instances if fnmatchcase(instance.name, pattern))
