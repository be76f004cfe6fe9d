"""`provision drain` and `undrain`: take instances out of the upstream by hand, and give them back."""

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from provision.cli.options import extra_vars_option, inventory_option, json_option
from provision.cli.run import Careful, Chosen, answered, chosen_words, exit_of, run_id, seconds_of

if TYPE_CHECKING:
    from provision.drain import Drain, Draining

F = TypeVar("F", bound=Callable[..., Any])


def _options(command: F) -> F:
    wrapped: Any = command
    ask = click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password.")
    wait = click.option(
        "--lock-wait", default="0", metavar="DURATION", help="Wait so long for a balancer that somebody else has."
    )
    verbose = click.option("-v", "--verbose", is_flag=True, help="Show every step.")
    words = click.argument("instances", nargs=-1, required=True, metavar="HOST[/INSTANCE]...")
    for option in (json_option, verbose, wait, ask, extra_vars_option, inventory_option, words):
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
    from provision.errors import UsageError
    from provision.lock import LONGEST_REASON

    if len(message) > LONGEST_REASON or not message.isprintable():
        raise UsageError(f"-m takes one line of at most {LONGEST_REASON} characters")
    seconds = seconds_of(timeout, "--timeout", least=0) if timeout else None
    said = [*(["-m", message] if message else []), *(["--timeout", timeout] if timeout else [])]

    def work(draining: "Draining") -> "Sequence[Drain]":
        return draining.drain(message, seconds)

    return answered("drain", options["as_json"], lambda: _run("drain", options, work, said))


@click.command()
@_options
def undrain(**options: Any) -> int:
    """Have instances prove that they can serve, and the balancers send to them again."""
    return answered(
        "undrain", options["as_json"], lambda: _run("undrain", options, lambda draining: draining.undrain())
    )


def _run(
    command: str, options: dict[str, Any], work: "Callable[[Draining], Sequence[Drain]]", said: Sequence[str] = ()
) -> int:
    """Do it, keep the log of it, and say what came of it.

    Args:
        command: `drain` or `undrain`.
        options: what both take.
        work: what it does.
        said: the words of its own options.
    """
    from provision import report, report_drain, report_live, sequence
    from provision.artifacts import Store, default_folder
    from provision.cli.resume import Logged, dead_runs
    from provision.context import Context
    from provision.drain import Draining
    from provision.ending import at_ctrl_c

    chosen, careful = _chosen(options)
    inventory = sequence.load(chosen.inventory, chosen.extra_vars)
    names = [host.name for host in inventory.hosts]
    shown = report_live.listener(names, as_json=chosen.as_json, verbose=chosen.verbose)
    context = Context(
        run_id(),
        inventory,
        frozenset(),
        shown,
        Store(default_folder()),
        lock_wait=careful.lock_wait,
        command=f"{command} {shlex.join(options['instances'])}",
        dead=dead_runs(),
    )
    draining = Draining(context, chosen.become_password, options["instances"])
    log = Logged(context.run_id, context.command, chosen, careful)
    with at_ctrl_c(draining.interrupt):
        log.begin()
        with shown:
            found = work(draining)
        code = 130 if draining.interrupted else exit_of(found)
        log.end(code, found)
        if chosen.as_json:
            report.document(command, code, inventory.warnings, **report_drain.document(found, context.run_id))
        else:
            words = ["provision", command, *options["instances"], *chosen_words(chosen), *said]
            report_drain.text(command, found, context.run_id, draining.hide(shlex.join(words)) if code else "")
    return code


def _chosen(options: dict[str, Any]) -> tuple[Chosen, Careful]:
    """The options as a deploy has them."""
    password = click.prompt("sudo password", hide_input=True, err=True) if options["ask_become_pass"] else None
    chosen = Chosen(
        inventory=options["inventory"],
        limit=(),
        extra_vars=options["extra_vars"],
        tags=(),
        skip_tags=(),
        forks=1,
        become_password=password,
        verbose=options["verbose"],
        as_json=options["as_json"],
    )
    return chosen, Careful(lock_wait=seconds_of(options["lock_wait"], "--lock-wait", least=0))
