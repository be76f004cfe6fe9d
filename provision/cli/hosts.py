"""What commands share that ask hosts something and are no deploy."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from provision.cli.options import extra_vars_option, inventory_option, json_option, limit_option

if TYPE_CHECKING:
    from provision.inventory import Host, Inventory
    from provision.ssh.session import Session

F = TypeVar("F", bound=Callable[..., Any])
FORKS = 32


def host_options(command: F) -> F:
    """Add `-i`, `-l`, `-e`, `-K` and `--json`; they arrive as keywords."""
    wrapped: Any = command
    ask = click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password.")
    for option in (json_option, ask, extra_vars_option, limit_option, inventory_option):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def on_hosts(
    options: dict[str, Any], work: "Callable[[Host, Session], Any]"
) -> tuple["Inventory", list[tuple["Host", Any]], int]:
    """Do something on every chosen host.

    Args:
        options: what `host_options` gave.
        work: what; may raise HostError.

    Returns:
        the inventory, every host with what was returned or the HostError, and the exit code.
    """
    from provision.errors import HostError
    from provision.plan import role_order
    from provision.ssh.fanout import each

    password = click.prompt("sudo password", hide_input=True, err=True) if options["ask_become_pass"] else None
    inventory = role_order.load(options["inventory"], options["extra_vars"])
    found = each(inventory.select(options["limit"]), work, password, FORKS)
    return inventory, found, exit_of_errors([one for _, one in found if isinstance(one, HostError)])


def exit_of_errors(errors: Sequence[Any]) -> int:
    """The exit code of DESIGN 8 for these errors."""
    codes = {error.exit_code for error in errors}
    return next((code for code in (1, 3, 6, 4) if code in codes), 0)
