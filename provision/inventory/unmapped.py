"""Hosts in no group of ours, and the lines of YAML that map them."""

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
    """Return the problem of an inventory without a host of ours: its groups, and the lines that map them.

    Args:
        root: the inventory.
        tree: its groups and hosts.
    """
    if not tree.hosts:
        return root.problem("names no host")
    counts = _hosts_of_groups(tree)
    if not counts:
        message = f"the inventory has no groups, only the hosts {_listed(list(tree.hosts))}"
        lines = _joined([_line("gpu", "hosts", next(iter(tree.hosts)))])
    else:
        counted = [f"{name} ({count} host{'s' if count != 1 else ''})" for name, count in counts.items()]
        message = f"its groups are {_listed(counted)}"
        lines = _joined(_lines(counts) or [_line("gpu", "children", max(counts, key=lambda name: counts[name]))])
    text = f"no host is in the group gpu or balancer: {message}; map them by lines at the top level such as {lines}"
    return Problem(root.file, 0, "", text)


def left_alone(tree: Tree, ours: Collection[str]) -> Iterator[str]:
    """Yield a warning with the hosts in no group of ours: switches, or hosts under a mistyped group."""
    others = [name for name in tree.hosts if name not in ours]
    if not others:
        return
    place = tree.places[others[0]]
    where = f"{place.file}:{place.line}" if place.line else place.file
    text = "hosts left out, because they are in none of the groups gpu, balancer, retired"
    around = {group.name for host in ours for group in tree.groups_of(host)}
    lines = _joined(_lines([name for name in _hosts_of_groups(tree) if name not in around]))
    yield f"{where}: {text}: {_listed(others)}" + (f"; if these are yours, map them by {lines}" if lines else "")


def _hosts_of_groups(tree: Tree) -> dict[str, int]:
    """Return group -> the number of its hosts, nested groups included, for every group with hosts except `all`."""
    counts: dict[str, int] = {}
    for host in tree.hosts:
        for group in tree.groups_of(host):
            if group.name not in ("all", "ungrouped"):
                counts[group.name] = counts.get(group.name, 0) + 1
    return counts


def _lines(groups: Collection[str]) -> list[str]:
    """Return a line for each group of ours that a group of the inventory, such as `gpu_nodes`, seems to mean."""
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
