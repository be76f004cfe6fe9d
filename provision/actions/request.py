"""The request of a caller: the hosts and roles of an action."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provision.errors import UsageError

if TYPE_CHECKING:
    from provision.runs.setup import Setup

FORKS = 32
FORCE_FIT = "--force-fit"
RUN_ID = r"\d{8}T\d{6}Z-[0-9a-f]{4}"


@dataclass(frozen=True)
class Request:
    """The hosts and roles of an action.

    Args:
        inventory: path of the inventory file.
        limit: Ansible patterns that select hosts, such as `gpu` or `!gpu-03`; empty for all hosts.
        extra_vars: settings that win over the inventory: `role.key=value` or `@FILE`.
        tags: names of the roles to run; empty for all roles.
        skip_tags: names of roles to leave out.
        forks: hosts at the same time.
        become_password: sudo's password, or None for the password in the inventory.
        user: login name; empty for the user in the inventory.
        private_key: path of the key for the login; empty for the key in the inventory.
        force_fit: whether models are deployed that do not fit their cards by an estimate, or their disk.
        setup: how hosts are reached and where runs keep files there; None for SSH and the usual folders.

    Raises:
        UsageError: a string in place of a tuple, or no forks.
    """

    inventory: str
    limit: tuple[str, ...] = ()
    extra_vars: tuple[str, ...] = field(default=(), repr=False)
    tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()
    forks: int = FORKS
    become_password: str | None = field(default=None, repr=False)
    user: str = ""
    private_key: str = ""
    force_fit: bool = False
    setup: Setup | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("limit", "extra_vars", "tags", "skip_tags"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} must be a tuple of strings, not one string")
        if self.forks < 1:
            raise UsageError("forks must be 1 or more")

    @property
    def overrides(self) -> tuple[str, ...]:
        """All settings that win over the inventory: `extra_vars`, then the user and the key."""
        own = (("ansible_user", self.user), ("ansible_ssh_private_key_file", self.private_key))
        return (*self.extra_vars, *(f"{name}={json.dumps(value)}" for name, value in own if value))


def run_id_of(text: str) -> str:
    """Check a run id that an operator typed.

    Raises:
        UsageError: the text is no run id.
    """
    if not re.fullmatch(RUN_ID, text):
        raise UsageError(f"{text[:60]!r} is not the id of a run", "`provision history` lists the runs")
    return text
