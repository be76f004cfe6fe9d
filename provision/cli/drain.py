"""`provision drain` and `undrain`: take instances out of the upstream by hand, and give them back."""

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from provision.cli.deploy import Careful, Chosen, answered, chosen_words, exit_of, run_id, seconds_of
from provision.cli.options import extra_vars_option, inventory_option, json_option

if TYPE_CHECKING:
    from provision.actions.drain import Drain, Draining
    from provision.runs.journal import Kind

F = TypeVar("F", bound=Callable[..., Any])
NAMED = 20  # instances that are named; of more, their number is said


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
@click.option("--force", is_flag=True, help="Drain even the last instances of a model, without asking.")
def drain(message: str, timeout: str, force: bool, **options: Any) -> int:
    """Have the balancers send nothing more to instances, and wait until their streams have ended.

    It lasts, over deploys and reboots, until `undrain`. Nothing is asked of the instances' hosts: they may be dead.
    Before the last instances of a model are drained, the command asks; without a terminal it needs --force.
    """
    from provision.errors import UsageError
    from provision.runs.lock import LONGEST_REASON

    if len(message) > LONGEST_REASON or not message.isprintable():
        raise UsageError(f"-m takes one line of at most {LONGEST_REASON} characters")
    seconds = seconds_of(timeout, "--timeout", least=0) if timeout else None
    said = [*(["-m", message] if message else []), *(["--timeout", timeout] if timeout else [])]
    said += ["--force"] if force else []

    def work(draining: "Draining") -> "Sequence[Drain]":
        return draining.drain(message, seconds)

    def ask(draining: "Draining") -> None:
        if not force:
            _agreed(draining.last(), as_json=options["as_json"])

    return answered("drain", options["as_json"], lambda: _run("drain", options, work, said, ask))


def _agreed(last: "Mapping[str, Sequence[str]]", *, as_json: bool) -> None:
    """Have an operator agree that nobody serves these models any more.

    Args:
        last: model -> the last instances that serve it.
        as_json: whether --json was said: then nobody is asked.

    Raises:
        GuardError: nobody can be asked.
        Abort: he does not agree.
    """
    from provision.errors import GuardError
    from provision.terminal_text import line

    said = []
    for model, labels in last.items():
        names = ", ".join(labels[:NAMED]) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
        what = f"the last that serve {model}" if model else "the last without a declared model that get requests"
        said.append(line(f"{names} {'is' if len(labels) == 1 else 'are'} {what}", 1000))
    if not said:
        return
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise GuardError(
            "; ".join(said), "drain fewer instances, or use --force: requests for a model without an instance fail"
        )
    click.echo("\n".join(said), err=True)
    click.confirm("Drain them all the same?", abort=True)


@click.command()
@_options
def undrain(**options: Any) -> int:
    """Have instances prove that they can serve, and the balancers send to them again."""
    return answered(
        "undrain", options["as_json"], lambda: _run("undrain", options, lambda draining: draining.undrain())
    )


def _run(
    command: "Kind",
    options: dict[str, Any],
    work: "Callable[[Draining], Sequence[Drain]]",
    said: Sequence[str] = (),
    ask: "Callable[[Draining], None]" = lambda _: None,
) -> int:
    """Do it, keep the log of it, and say what came of it.

    Args:
        command: `drain` or `undrain`.
        options: what both take.
        work: what it does.
        said: the words of its own options.
        ask: asks the operator before anything is done, where that is needed.
    """
    from provision.actions.drain import Draining
    from provision.actions.resume import Logged
    from provision.artifacts.store import Store, default_folder
    from provision.plan import role_order
    from provision.report import console, drain, progress
    from provision.runs.context import Context
    from provision.runs.interrupt import at_ctrl_c

    chosen, careful = _chosen(options)
    inventory = role_order.load(chosen.inventory, chosen.extra_vars)
    names = [host.name for host in inventory.hosts]
    shown = progress.listener(names, as_json=chosen.as_json, verbose=chosen.verbose)
    context = Context(
        run_id(),
        inventory,
        frozenset(),
        shown,
        Store(default_folder()),
        lock_wait=careful.lock_wait,
        kind=command,
        words=options["instances"],
    )
    draining = Draining(context, chosen.become_password, options["instances"])
    try:
        ask(draining)
    except BaseException:  # also Ctrl-C
        draining.close()
        raise
    log = Logged(context.run_id, context.command, chosen, careful)
    with at_ctrl_c(draining.interrupt, draining.under_way):
        log.begin()
        with shown:
            found = work(draining)
        code = 130 if draining.interrupted else exit_of(found)
        log.end(code, found)
        if chosen.as_json:
            console.document(command, code, inventory.warnings, **drain.document(found, context.run_id))
        else:
            words = ["provision", command, *options["instances"], *chosen_words(chosen), *said]
            drain.text(command, found, context.run_id, draining.hide(shlex.join(words)) if code else "")
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
