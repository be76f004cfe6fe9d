"""The command line: parse, call, print, exit. No logic.

Every command lives in a module of its own that is imported when it is asked for, so that `provision --help`
imports nothing but click.
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable
from functools import partial

import click

COMMANDS = {
    "plan": ("provision.cli.plan", "What a deploy would change, and what it would cost"),
    "deploy": ("provision.cli.deploy", "Make the hosts what the inventory says"),
    "verify": ("provision.cli.verify", "All that plan sees, and proof of what each step is for; changes nothing"),
    "loadtest": ("provision.cli.loadtest", "Put load on the endpoint; does it meet its targets, what does it hold"),
    "drain": ("provision.cli.drain", "Take instances out of the upstream, until they are given back"),
    "undrain": ("provision.cli.drain", "Give drained instances back, when they can serve"),
    "lock": ("provision.cli.lock", "Who has which host; keep others off; take a dead lock away"),
    "rollback": ("provision.cli.rollback", "Put back what a run changed"),
    "history": ("provision.cli.history", "The runs that changed these hosts, and what came of them"),
    "show": ("provision.cli.history", "What a run did, step by step"),
    "init": ("provision.cli.inventory", "Write a commented inventory to start from"),
    "inventory": ("provision.cli.inventory", "Check the inventory, or show it merged"),
    "trust": ("provision.cli.trust", "Show the hosts' key fingerprints and write known_hosts"),
    "help": ("provision.cli.help", "The help of a command"),
    "lab": ("provision.lab.cli", "A throw-away fleet with simulated GPUs on this machine"),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps, and imports a command when it is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name][0]), cmd_name)
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
  0  done                       5  verify or a target failed, or drift
  1  our own fault                 with plan --exit-code
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
        args: the words after `provision`; those of the process when None.
    """
    # What a command imports stays until its end. Looking through it for garbage, while it starts and once more when it
    # exits, would take a quarter of the time of a run that changes nothing.
    gc.set_threshold(100_000)
    code = execute(args)
    gc.freeze()
    sys.exit(code)


def execute(args: list[str] | None = None) -> int:
    """Run the command line; every error is shown in words.

    Args:
        args: as for `main`.

    Returns:
        the exit code.
    """
    words = sys.argv[1:] if args is None else args
    work = partial(group.main, args=args, prog_name="provision", standalone_mode=False)
    return in_words(work, as_json="--json" in words)


def in_words(work: Callable[[], object], *, as_json: bool = False) -> int:
    """Do something that prints, with every error shown in words.

    Args:
        work: what to do; an int that it returns is the exit code.
        as_json: whether wrong usage is also told in a JSON document.

    Returns:
        the exit code.
    """
    from provision.cli.output import guarded

    with guarded():
        return _in_words(work, as_json=as_json)


def _in_words(work: Callable[[], object], *, as_json: bool) -> int:
    from provision.cli.output import UnwritableError, forget_stdout
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
    except BrokenPipeError:  # `provision plan | head`
        forget_stdout()
        return 141
    except Exception as error:
        if os.environ.get("PROVISION_TRACEBACK"):
            raise
        _show_bug(error)
        return 1


def _usage_document(error: click.ClickException) -> None:
    """The JSON document of a command that was not understood."""
    from provision.report.console import failure_document

    context = error.ctx if isinstance(error, click.UsageError) else None
    name = context.command_path.partition(" ")[2] if context else ""
    failure_document(name, error.exit_code, error.format_message())


def _show_bug(error: Exception) -> None:
    """What nobody foresaw, in a few lines: where it happened, and how to see all of it."""
    from provision.errors import REPORT, where
    from provision.terminal_text import lines

    hint = "the whole traceback: PROVISION_TRACEBACK=1"
    text = [f"error: a bug of provision: {type(error).__name__}: {error}", where(error), f"-> {REPORT}", hint]
    click.echo("\n".join(lines("\n".join(text), width=1000)), err=True)
