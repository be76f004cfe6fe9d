"""Options that several commands share, and what the command line says of them as values."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import click

from provision.actions import Request
from provision.actions.request import FORKS

if TYPE_CHECKING:
    from provision.report.progress import Progress

Command = Callable[..., int]
F = TypeVar("F", bound=Callable[..., int])


@dataclass(frozen=True)
class Screen:
    """How the operator is told.

    Args:
        as_json: as one JSON document.
        verbose: with every step and the output of long ones.
    """

    as_json: bool
    verbose: bool = False

    def progress(self) -> Progress:
        """A listener that shows what happens."""
        from provision.report.progress import Progress

        return Progress(as_json=self.as_json, verbose=self.verbose)

    @property
    def asks(self) -> bool:
        """Whether somebody is there who can be asked."""
        return not self.as_json and sys.stdin.isatty() and sys.stdout.isatty()


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


def password_option(command: F) -> F:
    """Add `-K/--ask-become-pass`: the parameter `ask_become_pass`, a bool."""
    return click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password.")(command)


def common_options(command: Command) -> Command:
    """The options of commands that plan; they arrive as a `Request` and a `Screen`."""
    forks = click.IntRange(1, 500)
    return _with(
        command,
        inventory_option,
        limit_option,
        extra_vars_option,
        click.option("-t", "--tags", multiple=True, metavar="ROLE", help="Only these roles."),
        click.option("--skip-tags", multiple=True, metavar="ROLE", help="Not these roles."),
        click.option("-f", "--forks", default=FORKS, show_default=True, type=forks, help="Hosts at once."),
        password_option,
        click.option("-v", "--verbose", is_flag=True, help="Show every step and the output of long ones."),
        json_option,
    )


def host_options(command: Command) -> Command:
    """The options of commands that ask hosts something and are no run; they arrive as a `Request` and a `Screen`."""
    return _with(command, inventory_option, limit_option, extra_vars_option, password_option, json_option)


def instance_options(command: Command) -> Command:
    """The options of commands about instances; they arrive as a `Request`, a `Screen`, `instances` and `lock_wait`."""
    return _with(
        command,
        click.argument("instances", nargs=-1, required=True, metavar="HOST[/INSTANCE]..."),
        inventory_option,
        extra_vars_option,
        password_option,
        click.option(
            "--lock-wait", default="0", metavar="DURATION", help="Wait so long for a balancer that somebody else has."
        ),
        click.option("-v", "--verbose", is_flag=True, help="Show every step."),
        json_option,
    )


def _with(command: Command, *options: Callable[[Command], Command]) -> Command:
    """The command with these options, of which those about hosts arrive as a `Request`, the others by name."""

    @functools.wraps(command)
    def gathered(
        *,
        inventory: str,
        extra_vars: tuple[str, ...],
        ask_become_pass: bool,
        as_json: bool,
        limit: tuple[str, ...] = (),
        tags: tuple[str, ...] = (),
        skip_tags: tuple[str, ...] = (),
        forks: int = FORKS,
        verbose: bool = False,
        **own: object,
    ) -> int:
        password = click.prompt("sudo password", hide_input=True, err=True) if ask_become_pass else None
        request = Request(inventory, limit, extra_vars, tags, skip_tags, forks, password)
        screen = Screen(as_json, verbose)
        name = click.get_current_context().command_path.partition(" ")[2]
        return answered(name, as_json, lambda: command(request, screen, **own))

    wrapped: Command = gathered
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def answered(name: str, as_json: bool, command: Callable[[], int]) -> int:
    """Run a command; with --json an error is a document too.

    Args:
        name: of the command.
        as_json: whether --json was said.
        command: what to run; returns the exit code.
    """
    from provision.errors import ProvisionError

    try:
        return command()
    except ProvisionError as error:
        if not as_json:
            raise
        from provision.report import console

        console.error_document(name, error)
        return error.exit_code


def seconds_of(text: str, option: str, *, least: float) -> float:
    """A duration of the command line.

    Args:
        text: what was said.
        option: where.
        least: seconds; a day is the most.

    Raises:
        UsageError: it is none, too short or too long.
    """
    from provision.errors import UsageError
    from provision.inventory import duration_seconds, is_duration

    seconds = duration_seconds(text) if is_duration(text) else -1.0
    if not least <= seconds <= 86400:
        raise UsageError(f"{option} must be a duration between {least:g}s and 24h, such as 30s or 2m")
    return seconds
