"""`provision drain` and `undrain`: an operator takes instances out of the upstream, and puts the instances back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, instance_options, seconds_of

if TYPE_CHECKING:
    from provision.actions import DrainResult, Pace, Request


@click.command()
@instance_options
@click.option("-m", "--message", default="", metavar="WHY", help="The reason; plan and verify show the text.")
@click.option(
    "--timeout",
    default="",
    metavar="DURATION",
    help="Wait at most so long for open streams.  [default: drain_timeout of the inventory]",
)
@click.option("--force", is_flag=True, help="Drain even the last instances of a model, without asking.")
def drain(
    request: Request,
    screen: Screen,
    instances: tuple[str, ...],
    everything: bool,
    lock_wait: str,
    message: str,
    timeout: str,
    force: bool,
) -> int:
    """Have the balancers send nothing more to instances, and wait until their streams have ended.

    A PATTERN is a host, a group or another pattern of --limit. A drain lasts, over deploys and reboots, until
    `undrain`. The hosts of the instances may be dead: only balancers are asked. Before the last instances of a model
    are drained, the command asks; without a terminal the command needs --force.
    """
    from provision import actions
    from provision.report import drain as report

    own = [*(["-m", message] if message else []), *(["--timeout", timeout] if timeout else [])]
    own += ["--force"] if force else []

    def tell(result: DrainResult) -> None:
        report.show(result, as_json=screen.as_json, own=own, quiet=screen.quiet)

    result = actions.drain(
        request,
        _words(request, instances, everything=everything),
        _pace(lock_wait),
        why=message,
        timeout=seconds_of(timeout, "--timeout", least=0) if timeout else None,
        force=force,
        confirm=partial(_agree, screen.caller.confirm) if screen.asks else None,
        listen=screen.progress(),
        tell=tell,
    )
    return result.exit_code


@click.command()
@instance_options
def undrain(request: Request, screen: Screen, instances: tuple[str, ...], everything: bool, lock_wait: str) -> int:
    """Test drained instances, and have the balancers send requests to the healthy instances again."""
    from provision import actions
    from provision.report import drain as report

    def tell(result: DrainResult) -> None:
        report.show(result, as_json=screen.as_json, quiet=screen.quiet)

    words = _words(request, instances, everything=everything)
    return actions.undrain(request, words, _pace(lock_wait), listen=screen.progress(), tell=tell).exit_code


def _words(request: Request, instances: tuple[str, ...], *, everything: bool) -> tuple[str, ...]:
    """The words that choose instances. All instances are chosen by --all alone, never by leaving out the words.

    Raises:
        UsageError: no instance is named, or --all comes with a name.
    """
    from provision.errors import UsageError

    if everything and instances:
        raise UsageError("--all and the names of instances do not go together", "leave out one of them")
    if not (everything or instances or request.limit):
        raise UsageError("no instance is named", "name a host, a group or HOST/INSTANCE; --all means every instance")
    return instances or ("all",)


def _pace(lock_wait: str) -> Pace:
    from provision.actions import Pace

    return Pace(lock_wait=seconds_of(lock_wait, "--lock-wait", least=0))


def _agree(ask: Callable[[str], bool], losses: Sequence[str]) -> bool:
    """Ask the operator whether models may be left without an instance.

    Raises:
        Abort: he does not agree.
    """
    click.echo("\n".join(losses), err=True)
    if not ask("Drain them all the same?"):
        raise click.Abort
    return True
