"""Ansible's host patterns, as after `--limit`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.inventory.model import Host


def select(hosts: Sequence["Host"], patterns: Sequence[str]) -> tuple["Host", ...]:
    """Return the hosts that the patterns choose, in the order of `hosts`."""
    raise NotImplementedError
