"""The command line: parse, call, print, exit. No logic.

The module of a command is imported when the command is called, so that `provision --help` imports click alone.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from provision.cli.caller import Caller

COMMANDS = {
    "facts": ("provision.cli.facts", "Show system, Docker, disks and cards of the hosts"),
    "doctor": ("provision.cli.doctor", "Find what is wrong with hosts before a deploy, and the cure; change nothing"),
    "plan": ("provision.cli.plan", "Show the changes of a deploy, and their cost"),
    "deploy": ("provision.cli.deploy", "Change the hosts to the state in the inventory"),
    "verify": ("provision.cli.verify", "Compare as plan does, then prove every step; change nothing"),
    "fit": ("provision.cli.fit", "Estimate whether a model fits into cards, without hosts"),
    "loadtest": ("provision.cli.loadtest", "Put load on the endpoint: targets, capacity, slow instances"),
    "status": ("provision.cli.status", "Show whether all is well: instances, cards, balancers; the worst first"),
    "logs": ("provision.cli.logs", "Show the logs of instances and balancers, from all hosts at once"),
    "exec": ("provision.cli.inside", "Run a command in the container of an instance"),
    "ssh": ("provision.cli.inside", "Log in to a host with the settings of the inventory"),
    "drain": ("provision.cli.drain", "Take instances out of the upstream, until undrain"),
    "undrain": ("provision.cli.drain", "Test drained instances, and send requests there again"),
    "switch": ("provision.cli.switch", "Move the common address of the balancers, without cutting streams"),
    "keys": ("provision.cli.keys", "Give out, list, rotate and revoke the keys of clients"),
    "usage": ("provision.cli.usage", "Show who used what, by the balancers' access logs"),
    "lock": ("provision.cli.lock", "Show the locks of hosts; lock hosts; remove dead locks"),
    "rollback": ("provision.cli.rollback", "Undo the changes of a run"),
    "history": ("provision.cli.history", "List the runs on these hosts, and their results"),
    "show": ("provision.cli.history", "Show a run step by step"),
    "init": ("provision.cli.inventory", "Write a commented inventory to start from"),
    "inventory": ("provision.cli.inventory", "Check the inventory, or show it merged"),
    "nginx": ("provision.cli.nginx", "Pin a version or patches of nginx, with a verified signature"),
    "ca": ("provision.cli.ca", "Make an authority for TLS on balancers, and renew their certificates"),
    "trust": ("provision.cli.trust", "Show the hosts' key fingerprints and write known_hosts"),
    "help": ("provision.cli.help", "Show the help of a command"),
    "lab": ("provision.lab.cli", "A throw-away fleet with simulated GPUs on this machine"),
}


class LazyGroup(click.Group):
    """A group with the name and the one-line help of every command. A command is imported when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = getattr(module, cmd_name, None) or getattr(module, f"{cmd_name}_")  # `exec` is a name of Python
        assert isinstance(command, click.Command)  # noqa: S101 - narrows the type
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            ctx.fail(f"no such command: {args[0]}{meant}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


EXIT_CODES = """\b
Exit codes:
  0  done                       5  verify, doctor or a target failed,
  1  our own fault                 or drift with plan --exit-code
  2  usage or inventory         6  locked
  3  a host failed              7  stopped by a guard
  4  a host is unreachable,   130  interrupted, or the answer was no
     and none failed          141  the reader of a pipe is gone"""


@click.command(cls=LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(None, "-V", "--version", package_name="provision")
@click.option("-i", "--inventory", type=click.Path(), metavar="FILE", help="The inventory, for commands that take one.")
@click.option("--no-color", is_flag=True, help="No colours.")
def group(inventory: str | None, no_color: bool) -> None:
    """Turn bare GPU servers into a private, verified LLM endpoint over SSH."""
    if no_color:
        os.environ["NO_COLOR"] = "1"
        os.environ.pop("FORCE_COLOR", None)


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with the exit code of the command.

    Args:
        args: the words after `provision`; None for the words of the process.
    """
    # Imported modules stay until the command ends. Looking for garbage in them, at the start and again at the exit,
    # would take a quarter of the time of a run without changes.
    gc.set_threshold(100_000)
    code = execute(args)
    gc.freeze()
    sys.exit(code)


def execute(args: list[str] | None = None, caller: Caller | None = None) -> int:
    """Run the command line; every error is shown in words.

    Args:
        args: as for `main`.
        caller: hands in hosts and answers; None for SSH and the terminal.

    Returns:
        the exit code.
    """
    words = sys.argv[1:] if args is None else args
    work = partial(group.main, args=args, prog_name="provision", standalone_mode=False, obj=caller)
    return in_words(work, as_json="--json" in words)


def in_words(work: Callable[[], object], *, as_json: bool = False) -> int:
    """Call a function, and show every error in words.

    Args:
        work: the function; an int as its result is the exit code.
        as_json: whether wrong usage is also told in a JSON document.

    Returns:
        the exit code.
    """
    from provision.cli.output import guarded

    with guarded():
        return _in_words(work, as_json=as_json)


def _in_words(work: Callable[[], object], *, as_json: bool) -> int:
    from provision.cli.output import ReaderGoneError, UnwritableError, forget_stdout
    from provision.errors import ProvisionError

    try:
        result = work()
        return result if isinstance(result, int) else 0
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.ClickException as error:
        error.show()
        if as_json:
            _usage_document(error)
        return error.exit_code
    except ProvisionError as error:
        from provision.report.console import error_text

        click.echo(error_text(error), err=True)
        if isinstance(error, UnwritableError):
            forget_stdout()
        return error.exit_code
    except ReaderGoneError:
        forget_stdout()
        return 141
    except Exception as error:
        if os.environ.get("PROVISION_TRACEBACK"):
            raise
        _show_bug(error)
        return 1


def _usage_document(error: click.ClickException) -> None:
    """Print the JSON document of a command line with wrong usage."""
    from provision.report.console import failure_document

    context = error.ctx if isinstance(error, click.UsageError) else None
    name = context.command_path.partition(" ")[2] if context else ""
    failure_document(name, error.exit_code, error.format_message())


def _show_bug(error: Exception) -> None:
    """Print a bug in a few lines: the place, and how to see the whole traceback."""
    from provision.errors import REPORT, where
    from provision.terminal_text import lines

    hint = "the whole traceback: PROVISION_TRACEBACK=1"
    text = [f"error: a bug of provision: {type(error).__name__}: {error}", where(error), f"-> {REPORT}", hint]
    click.echo("\n".join(lines("\n".join(text), width=1000)), err=True)
