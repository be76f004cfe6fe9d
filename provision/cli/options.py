"""Options shared by several commands, and their values."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import click

from provision.actions import Request
from provision.actions.request import FORKS
from provision.cli import caller as callers
from provision.cli.caller import Caller

if TYPE_CHECKING:
    from provision.events import Listener

Command = Callable[..., int]
F = TypeVar("F", bound=Callable[..., int])


class Group(click.Group):
    """A group whose help shows every command with its whole first sentence; click would cut a long sentence."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=500)) for name, command in commands if command])


@dataclass(frozen=True)
class Screen:
    """How a command shows its results.

    Args:
        as_json: as a JSON document.
        verbose: with every step, and the output of long steps.
        quiet: failures and the last line alone.
        caller: the caller of the command line.
    """

    as_json: bool
    verbose: bool = False
    quiet: bool = False
    caller: Caller = field(default_factory=Caller)

    def progress(self) -> Listener:
        """A listener that shows the progress."""
        from provision.report.progress import Progress, failures_only

        if self.quiet:
            return failures_only
        return Progress(as_json=self.as_json, verbose=self.verbose)

    @property
    def can_ask(self) -> bool:
        """Whether somebody sits at the standard input."""
        return not self.as_json and self.caller.can_type()

    @property
    def asks(self) -> bool:
        """Whether somebody is there who can be asked."""
        return not self.as_json and self.caller.can_answer()


def inventory_option(command: F) -> F:
    """Add `-i/--inventory PATH` (or PROVISION_INVENTORY): the parameter `inventory`, a str."""
    option = click.option(
        "-i",
        "--inventory",
        envvar="PROVISION_INVENTORY",
        default="inventory.yaml",
        show_default=True,
        show_envvar=True,
        type=click.Path(),
        metavar="FILE",
        help="The inventory.",
        callback=_inventory,
    )
    return option(command)


def _inventory(context: click.Context, option: click.Parameter, value: str) -> str:
    """The inventory of the command itself; else of `provision -i FILE COMMAND`; else the default."""
    source = context.get_parameter_source(option.name or "")
    before = context.find_root().params.get("inventory")
    return str(before) if before and source is not click.core.ParameterSource.COMMANDLINE else value


def limit_option(command: F) -> F:
    """Add `-l/--limit PATTERN`, repeatable: the parameter `limit`, a tuple of str."""
    help_text = "Only these hosts: Ansible patterns, such as gpu,!gpu-03, ~gpu-0[1-4] or @FILE."
    return click.option("-l", "--limit", multiple=True, metavar="PATTERN", help=help_text)(command)


def extra_vars_option(command: F) -> F:
    """Add `-e/--extra-vars`, repeatable: the parameter `extra_vars`, a tuple of str."""
    help_text = "Settings that win over the inventory: role.key=value or @FILE."
    return click.option("-e", "--extra-vars", multiple=True, metavar="KEY=VALUE", help=help_text)(command)


def given_words(context: click.Context) -> list[str]:
    """Return the options of a command that differ from their defaults, as words that give them again.

    Args:
        context: the context of the command. `-i` and other options of the program before the command count as the
            command's own.
    """
    words: list[str] = []
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if value in (None, option.get_default(context)) or value == ():
            continue
        name = max(option.opts, key=len)
        for one in value if isinstance(value, tuple) else (value,):
            words += [name] if one is True else [name, str(one)]
    return words


def json_option(command: F) -> F:
    """Add `--json`: the parameter `as_json`, a bool."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(command)


def password_option(command: F, help_text: str = "Ask for sudo's password.") -> F:
    """Add `-K/--ask-become-pass`: the parameter `ask_become_pass`, a bool."""
    return click.option("-K", "--ask-become-pass", is_flag=True, help=help_text)(command)


def unused_password_option(command: F) -> F:
    """Add `-K` to a command that logs in to no host: an alias with the options of all commands keeps working."""
    return password_option(command, "Without effect: this command logs in to no host and needs no password.")


def forks_option(command: F, *names: str) -> F:
    """Add `-f/--forks N`, or the option under other names: the parameter `forks`, an int."""
    given = names or ("-f", "--forks")
    count = click.IntRange(1, 500)
    return click.option(*given, default=FORKS, show_default=True, type=count, metavar="N", help="Hosts at once.")(
        command
    )


def long_forks_option(command: F) -> F:
    """Add `--forks N` without `-f`, for a command whose `-f` means to follow: the parameter `forks`, an int."""
    return forks_option(command, "--forks")


def colour_option(command: F) -> F:
    """Add `--no-color`, as NO_COLOR in the environment; no parameter."""
    option = click.option("--no-color", is_flag=True, expose_value=False, callback=_no_color, help="No colours.")
    return option(command)


def _no_color(_: click.Context, __: click.Parameter, value: bool) -> None:
    if value:
        os.environ["NO_COLOR"] = "1"
        os.environ.pop("FORCE_COLOR", None)


def lock_wait_option(what: str) -> Callable[[F], F]:
    """Add `--lock-wait DURATION`: the parameter `lock_wait`, a str.

    Args:
        what: the locked thing, such as `a host`.
    """
    help_text = f"Wait at most so long for {what} locked by somebody else.  [default: 0]"
    return click.option("--lock-wait", default="0", metavar="DURATION", help=help_text)


def _roles_beginning(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """The roles that begin with a word, for the completion of the shell."""
    from provision.plan.role_interface import order

    return [role for role in order() if role.startswith(begun)]


diff_option = click.option(
    "-D/ ", "--diff/--no-diff", default=True, show_default=True, help="Show what would change in files."
)
force_fit_option = click.option(
    "--force-fit", is_flag=True, help="Also deploy models that do not fit their cards by the estimate, or their disk."
)
exit_code_option = click.option("--exit-code", is_flag=True, help="With a plan: exit 5 when something would change.")

_REACH = (
    click.option("-u", "--user", default="", metavar="NAME", help="Log in as NAME, whatever the inventory says."),
    click.option("--private-key", default="", type=click.Path(), metavar="FILE", help="Log in with this key."),
    password_option,
    forks_option,
)
_ROLES = (
    click.option(
        "-t", "--tags", multiple=True, metavar="ROLE", help="Only these roles.", shell_complete=_roles_beginning
    ),
    click.option(
        "--skip-tags", multiple=True, metavar="ROLE", help="Not these roles.", shell_complete=_roles_beginning
    ),
)
_OUTPUT = (
    click.option(
        "-v", "--verbose", count=True, help="Show every step with its commands; -vv also the SSH connections."
    ),
    click.option("-q", "--quiet", is_flag=True, help="Show only failures and the last line."),
    colour_option,
    json_option,
)
_LISTS = (
    click.option("--list-hosts", is_flag=True, help="List the chosen hosts and end; connect to no host."),
    click.option("--list-steps", is_flag=True, help="List the steps of each chosen host and end; connect to no host."),
)


def run_options(command: Command) -> Command:
    """Add the options of commands that plan. The command gets a `Request` and a `Screen`."""
    return _with(command, inventory_option, limit_option, extra_vars_option, *_ROLES, *_REACH, *_OUTPUT)


def listing_options(command: Command) -> Command:
    """As `run_options`, with `--list-hosts` and `--list-steps`: a list in place of the command."""
    return _with(command, inventory_option, limit_option, extra_vars_option, *_ROLES, *_LISTS, *_REACH, *_OUTPUT)


def host_options(command: Command) -> Command:
    """Add the options of commands that ask hosts and change nothing. The command gets a `Request` and a `Screen`."""
    chosen = (inventory_option, limit_option, extra_vars_option)
    return _with(command, *chosen, *_REACH, colour_option, json_option)


def place_options(command: Command) -> Command:
    """As `host_options`, for one place: without `--limit`, `--forks` and `--json`."""
    reach = (option for option in _REACH if option is not forks_option)
    return _with(command, inventory_option, extra_vars_option, *reach, colour_option)


def log_options(command: Command) -> Command:
    """As `host_options`, without `-f` for `--forks`: `-f` follows."""
    chosen = (inventory_option, limit_option, extra_vars_option)
    reach = (long_forks_option if option is forks_option else option for option in _REACH)
    return _with(command, *chosen, *reach, colour_option, json_option)


def key_options(command: Command) -> Command:
    """As `host_options`, but -K asks for no password: the command logs in to no host."""
    chosen = (inventory_option, limit_option, extra_vars_option)
    reach = (unused_password_option if option is password_option else option for option in _REACH)
    return _with(command, *chosen, *reach, colour_option, json_option, needs_password=False)


def switch_options(command: Command) -> Command:
    """As `host_options`, for a command that changes balancers. The command gets `lock_wait` too."""
    chosen = (inventory_option, limit_option, extra_vars_option)
    return _with(command, *chosen, *_REACH, lock_wait_option("a balancer"), *_OUTPUT)


def instance_options(command: Command) -> Command:
    """Add the options of commands about instances. The command gets a `Request`, a `Screen`, `instances`, `everything`
    and `lock_wait`."""
    return _with(
        command,
        click.argument("instances", nargs=-1, metavar="[PATTERN[/INSTANCE]]..."),
        click.option("--all", "everything", is_flag=True, help="All instances of the inventory."),
        inventory_option,
        limit_option,
        extra_vars_option,
        *_REACH,
        lock_wait_option("a balancer"),
        *_OUTPUT,
    )


def _with(command: Command, *options: Callable[[Command], Command], needs_password: bool = True) -> Command:
    """Add options to a command. The options about hosts become a `Request`, options of the screen a `Screen`."""

    @functools.wraps(command)
    def gathered(
        *,
        inventory: str,
        extra_vars: tuple[str, ...],
        ask_become_pass: bool,
        user: str,
        private_key: str,
        as_json: bool = False,
        forks: int = FORKS,
        limit: tuple[str, ...] = (),
        tags: tuple[str, ...] = (),
        skip_tags: tuple[str, ...] = (),
        verbose: int = 0,
        quiet: bool = False,
        list_hosts: bool = False,
        list_steps: bool = False,
        **own: object,
    ) -> int:
        if verbose and quiet:
            raise click.UsageError("-v and -q do not go together")
        listed = list_hosts or list_steps
        asks = ask_become_pass and needs_password and not listed
        password = click.prompt("sudo password", hide_input=True, err=True) if asks else None
        caller = callers.current()
        chosen = (inventory, limit, extra_vars, tags, skip_tags)
        request = Request(*chosen, forks, password, user, private_key, setup=caller.setup)
        screen = Screen(as_json, bool(verbose), quiet, caller)
        if verbose > 1:
            from provision.report.trace import show_ssh

            show_ssh()
        name = click.get_current_context().command_path.partition(" ")[2]
        if listed:
            return answered(name, as_json, lambda: _listed(name, request, screen, steps=list_steps, **own))
        return answered(name, as_json, lambda: command(request, screen, **own))

    wrapped: Command = gathered
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped


def _listed(name: str, request: Request, screen: Screen, *, steps: bool, resume: object = "", **_: object) -> int:
    """List the selected hosts and steps, in place of the command."""
    from provision.actions.selection import selected
    from provision.errors import UsageError
    from provision.report import selection

    if resume:
        raise UsageError("--resume takes the hosts of its run: leave out --list-hosts and --list-steps")
    selection.show(name, selected(request), as_json=screen.as_json, steps=steps)
    return 0


def answered(name: str, as_json: bool, command: Callable[[], int]) -> int:
    """Run a command; with --json an error becomes a document.

    Args:
        name: of the command.
        as_json: whether --json was said.
        command: what to run; returns the exit code.
    """
    from provision.cli.output import ReaderGoneError, UnwritableError, is_written
    from provision.errors import REPORT, ProvisionError

    if not as_json:
        return command()
    from provision.report import console

    try:
        return command()
    except (UnwritableError, ReaderGoneError):
        raise
    except ProvisionError as error:
        console.error_document(name, error)
        return error.exit_code
    except (KeyboardInterrupt, click.exceptions.Abort):
        if not is_written():
            console.failure_document(name, 130, "interrupted")
        raise
    except Exception as error:
        if not is_written():
            console.failure_document(name, 1, f"a bug of provision: {type(error).__name__}: {error}"[:1000], REPORT)
        raise


def seconds_of(text: str, option: str, *, least: float) -> float:
    """A duration of the command line.

    Args:
        text: the value of the option.
        option: name of the option.
        least: seconds; a day is the most.

    Raises:
        UsageError: the text is no duration, or the duration is too short or too long.
    """
    from provision.errors import UsageError
    from provision.inventory import duration_seconds, is_duration

    seconds = duration_seconds(text) if is_duration(text) else -1.0
    if not least <= seconds <= 86400:
        raise UsageError(f"{option} must be a duration between {least:g}s and 24h, such as 30s or 2m")
    return seconds


def agreed(ask: Callable[[str], bool], question: str, declined: str) -> bool:
    """Ask an operator whether to go on.

    Args:
        ask: asks the question.
        question: what he is asked.
        declined: what he is told where he says no.
    """
    if ask(question):
        return True
    click.echo(declined, err=True)
    return False
