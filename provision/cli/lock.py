"""`provision lock`: who has a host, keep others off it, and take a dead lock away."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from provision.cli.options import extra_vars_option, inventory_option, json_option, limit_option

if TYPE_CHECKING:
    from provision.inventory import Host
    from provision.ssh import Session

F = TypeVar("F", bound=Callable[..., Any])
FORKS = 32


@click.group()
def lock() -> None:
    """Show, take or give back the locks of hosts. A deploy locks what it changes by itself."""


def _options(command: F) -> F:
    wrapped: Any = command
    ask = click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password.")
    for option in (json_option, ask, extra_vars_option, limit_option, inventory_option):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@lock.command()
@_options
def status(**options: Any) -> int:
    """Who has which host, since when, and why."""
    from provision import lock as locks

    def work(_: "Host", session: "Session") -> Any:
        return locks.held(session.batch([locks.status()], stop=False)[0])

    return _run("lock status", options, work)


@lock.command()
@_options
@click.option("-m", "--message", required=True, metavar="WHY", help="Shown to whoever is kept off.")
def acquire(message: str, **options: Any) -> int:
    """Keep everybody off the hosts until the lock is released: no deploy changes them, yours included."""
    from provision import lock as locks
    from provision.errors import UsageError

    if not message.strip() or len(message) > locks.LONGEST_REASON or not message.isprintable():
        raise UsageError(f"-m takes one line of at most {locks.LONGEST_REASON} characters")

    def work(_: "Host", session: "Session") -> Any:
        locks.checked(session.batch([locks.acquire_by_hand(message)], stop=False)[0])
        return locks.held(session.batch([locks.status()], stop=False)[0])

    return _run("lock acquire", options, work)


@lock.command()
@_options
@click.option("--force", is_flag=True, help="Also the lock of a run, which may still be at work.")
def release(force: bool, **options: Any) -> int:
    """Take away locks by hand, and those of runs that are dead."""
    from provision import lock as locks

    def work(_: "Host", session: "Session") -> Any:
        return locks.held(session.batch([locks.take_away(force=force)], stop=False)[0])

    return _run("lock release", options, work)


def _run(command: str, options: dict[str, Any], work: "Callable[[Host, Session], Any]") -> int:
    from provision.cli.run import answered

    password = click.prompt("sudo password", hide_input=True, err=True) if options["ask_become_pass"] else None
    return answered(command, options["as_json"], lambda: _on_all(command, options, work, password))


def _on_all(command: str, options: dict[str, Any], work: "Callable[[Host, Session], Any]", password: str | None) -> int:
    from provision import report, sequence
    from provision.each import each
    from provision.errors import HostError

    inventory = sequence.load(options["inventory"], options["extra_vars"])
    found = each(inventory.select(options["limit"]), work, password, FORKS)
    code = _exit([one for _, one in found if isinstance(one, HostError)])
    if options["as_json"]:
        report.document(command, code, inventory.warnings, **report.locks_document(found))
    else:
        report.locks_text(found, released=command == "lock release")
    return code


def _exit(errors: Sequence[Any]) -> int:
    """The exit code of DESIGN 8 for these errors."""
    codes = {error.exit_code for error in errors}
    return next((code for code in (1, 3, 6, 4) if code in codes), 0)
