"""Hosts that are in no group of ours, and the lines of YAML that put them into one."""

import re
from collections.abc import Collection, Iterator, Sequence

from provision.errors import Problem
from provision.inventory.groups import Tree
from provision.inventory.near import nearest
from provision.inventory.value import Value

SHOWN = 10  # names in a message
_MEANT = {
    "gpu": re.compile(r"(^|[_.-])(gpu|dgx|hgx|cuda|nvidia)"),
    "balancer": re.compile(r"balanc|(^|[_.-])(lbs?|haproxy|proxy|proxies|ingress)([_.-]|$)"),
}


def nothing_to_do(root: Value, tree: Tree) -> Problem:
    """The problem of an inventory in which no host is ours: the groups found, and the lines that map them.

    Args:
        root: the inventory.
        tree: its groups and hosts.
    """
    if not tree.hosts:
        return root.problem("names no host")
    found = _hosts_of_groups(tree)
    if not found:
        message = f"the inventory has no groups, only the hosts {_listed(list(tree.hosts))}"
        lines = _joined([_line("gpu", "hosts", next(iter(tree.hosts)))])
    else:
        counted = [f"{name} ({count} host{'s' if count != 1 else ''})" for name, count in found.items()]
        message = f"its groups are {_listed(counted)}"
        lines = _joined(_lines(found) or [_line("gpu", "children", max(found, key=lambda name: found[name]))])
    said = f"no host is in the group gpu or balancer: {message}; map them by lines at the top level such as {lines}"
    return Problem(root.file, 0, "", said)


def left_alone(tree: Tree, ours: Collection[str]) -> Iterator[str]:
    """Yield a warning that names the hosts in no group of ours: switches, or hosts under a mistyped group."""
    others = [name for name in tree.hosts if name not in ours]
    if not others:
        return
    place = tree.places[others[0]]
    where = f"{place.file}:{place.line}" if place.line else place.file
    said = "hosts left out, because they are in none of the groups gpu, balancer, retired"
    around = {group.name for host in ours for group in tree.groups_of(host)}
    lines = _joined(_lines([name for name in _hosts_of_groups(tree) if name not in around]))
    yield f"{where}: {said}: {_listed(others)}" + (f"; if these are yours, map them by {lines}" if lines else "")


def _hosts_of_groups(tree: Tree) -> dict[str, int]:
    """Name of every group with hosts, but `all` -> how many hosts are in the group or in one inside."""
    counts: dict[str, int] = {}
    for host in tree.hosts:
        for group in tree.groups_of(host):
            if group.name not in ("all", "ungrouped"):
                counts[group.name] = counts.get(group.name, 0) + 1
    return counts


def _lines(groups: Collection[str]) -> list[str]:
    """A line for each group of ours that a group of the inventory seems to mean, such as `gpu_nodes`."""
    lines = []
    for ours, meant in _MEANT.items():
        near = nearest(ours, groups) or next((name for name in groups if meant.search(name.lower())), None)
        lines += [_line(ours, "children", near)] if near else []
    return lines


def _line(ours: str, part: str, name: str) -> str:
    return f"`{ours}: {{{part}: {{{name}: }}}}`"


def _joined(lines: Sequence[str]) -> str:
    return " and ".join(lines)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
