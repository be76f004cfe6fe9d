"""Options that several commands share."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def inventory_option(command: F) -> F:
    """Add `-i/--inventory PATH` (or PROVISION_INVENTORY): the parameter `inventory`, a str."""
    option = click.option(
        "-i",
        "--inventory",
        envvar="PROVISION_INVENTORY",
        default="inventory.yaml",
        show_default=True,
        show_envvar=True,
        metavar="FILE",
        help="The inventory.",
    )
    return option(command)


def limit_option(command: F) -> F:
    """Add `-l/--limit PATTERN`, repeatable: the parameter `limit`, a tuple of str."""
    help_text = "Only these hosts: Ansible patterns, such as gpu,!gpu-03 or @FILE."
    return click.option("-l", "--limit", multiple=True, metavar="PATTERN", help=help_text)(command)


def extra_vars_option(command: F) -> F:
    """Add `-e/--extra-vars`, repeatable: the parameter `extra_vars`, a tuple of str."""
    help_text = "Settings that win over the inventory: role.key=value or @FILE."
    return click.option("-e", "--extra-vars", multiple=True, metavar="KEY=VALUE", help=help_text)(command)


def json_option(command: F) -> F:
    """Add `--json`: the parameter `as_json`, a bool."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(command)
