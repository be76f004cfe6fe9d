"""The roles that an operator chooses by `--tags` and `--skip-tags`."""

from collections.abc import Sequence

from provision.errors import UsageError
from provision.plan import role_interface


def choose(tags: Sequence[str], skip: Sequence[str]) -> frozenset[str]:
    """Return the names of the roles that `--tags` and `--skip-tags` select.

    Args:
        tags: role names, or words of role names separated by commas; all roles if empty.
        skip: likewise, taken away.

    Raises:
        UsageError: no role has such a name.
    """
    return frozenset(_names(tags) or role_interface.order()) - frozenset(_names(skip))


def _names(words: Sequence[str]) -> list[str]:
    names = [name.strip() for word in words for name in word.split(",") if name.strip()]
    for name in names:
        if name not in role_interface.order():
            raise UsageError(f"no such role: {name}", f"roles are {', '.join(role_interface.order())}")
    return names
