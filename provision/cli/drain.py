"""`provision drain` and `undrain`: take instances out of the upstream by hand, and give them back."""

import shlex
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from provision.cli.asking import exit_of_errors
from provision.cli.options import extra_vars_option, inventory_option, json_option

F = TypeVar("F", bound=Callable[..., Any])


def _options(command: F) -> F:
    wrapped: Any = command
    ask = click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password.")
    wait = click.option(
        "--lock-wait", default="0", metavar="DURATION", help="Wait so long for a balancer that somebody else has."
    )
    words = click.argument("instances", nargs=-1, required=True, metavar="HOST[/INSTANCE]...")
    for option in (json_option, wait, ask, extra_vars_option, inventory_option, words):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@click.command()
@_options
@click.option("-m", "--message", default="", metavar="WHY", help="Shown to whoever looks.")
@click.option("--timeout", default="", metavar="DURATION", help="Wait so long for streams.  [ollama.drain_timeout]")
def drain(message: str, timeout: str, **options: Any) -> int:
    """Have the balancers send nothing more to instances, and wait until their streams have ended.

    It lasts, over deploys and reboots, until `undrain`. Nothing is asked of the instances' hosts: they may be dead.
    """
    from provision.cli.run import answered, seconds_of
    from provision.errors import UsageError
    from provision.lock import LONGEST_REASON

    if len(message) > LONGEST_REASON or not message.isprintable():
        raise UsageError(f"-m takes one line of at most {LONGEST_REASON} characters")
    seconds = seconds_of(timeout, "--timeout", least=0) if timeout else None
    return answered("drain", options["as_json"], lambda: _run("drain", options, lambda it: it.drain(message, seconds)))


@click.command()
@_options
def undrain(**options: Any) -> int:
    """Have instances prove that they can serve, and the balancers send to them again."""
    from provision.cli.run import answered

    return answered("undrain", options["as_json"], lambda: _run("undrain", options, lambda it: it.undrain()))


def _run(command: str, options: dict[str, Any], work: Callable[[Any], Sequence[Any]]) -> int:
    from provision import report, report_drain, sequence
    from provision.artifacts import Store, default_folder
    from provision.cli.resume import dead_runs
    from provision.cli.run import run_id, seconds_of
    from provision.context import Context
    from provision.drain import Draining

    password = click.prompt("sudo password", hide_input=True, err=True) if options["ask_become_pass"] else None
    inventory = sequence.load(options["inventory"], options["extra_vars"])
    shown = report.listener([host.name for host in inventory.hosts], as_json=options["as_json"], verbose=False)
    context = Context(
        run_id(),
        inventory,
        frozenset(),
        shown,
        Store(default_folder()),
        lock_wait=seconds_of(options["lock_wait"], "--lock-wait", least=0),
        command=f"{command} {shlex.join(options['instances'])}",
        dead=dead_runs(),
    )
    draining = Draining(context, password, options["instances"])
    with shown:
        found = work(draining)
    code = exit_of_errors([one.error for one in found if one.error])
    if options["as_json"]:
        report.document(command, code, inventory.warnings, **report_drain.document(found, context.run_id))
    else:
        report_drain.text(command, found)
    return code
