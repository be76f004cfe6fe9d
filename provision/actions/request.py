"""What a caller asks for: the hosts and roles that an action is about."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from provision.errors import UsageError

FORKS = 32
RUN_ID = r"\d{8}T\d{6}Z-[0-9a-f]{4}"


@dataclass(frozen=True)
class Request:
    """What an action is about.

    Args:
        inventory: path of the inventory file.
        limit: Ansible patterns that choose hosts, such as `gpu` or `!gpu-03`; none for all hosts.
        extra_vars: settings that win over the inventory's: `role.key=value` or `@FILE`.
        tags: names of the only roles that are looked at; none for all roles.
        skip_tags: names of roles that are left out.
        forks: hosts at the same time.
        become_password: sudo's password, or None for the inventory's.
        user: name to log in as; empty for the inventory's.
        private_key: path of the key to log in with; empty for the inventory's.

    Raises:
        UsageError: a string stands where a tuple is wanted, or there are no forks.
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

    def __post_init__(self) -> None:
        for name in ("limit", "extra_vars", "tags", "skip_tags"):
            if isinstance(getattr(self, name), str):
                raise UsageError(f"{name} must be a tuple of strings, not one string")
        if self.forks < 1:
            raise UsageError("forks must be 1 or more")

    @property
    def overrides(self) -> tuple[str, ...]:
        """All settings that win over the inventory's: `extra_vars`, then the user and the key."""
        own = (("ansible_user", self.user), ("ansible_ssh_private_key_file", self.private_key))
        return (*self.extra_vars, *(f"{name}={json.dumps(value)}" for name, value in own if value))


def run_id_of(text: str) -> str:
    """A run's id, as somebody typed it.

    Raises:
        UsageError: it is none.
    """
    if not re.fullmatch(RUN_ID, text):
        raise UsageError(f"{text[:60]!r} is no run", "`provision history` lists them")
    return text
