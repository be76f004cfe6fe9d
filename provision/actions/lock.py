"""Who has which host: show, take and give back the locks of hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.actions.request import Request
from provision.actions.results import Answers
from provision.errors import UsageError

if TYPE_CHECKING:
    from provision.inventory import Host
    from provision.runs.lock import Holder
    from provision.runs.log import Log
    from provision.ssh.session import Session


@dataclass(frozen=True)
class Locks(Answers["Holder | None"]):
    """Who has, or had, every host; None for nobody.

    Args:
        over: the log of a run of this machine that is over, by its id.
    """

    over: Callable[[str], Log | None]


def status(request: Request) -> Locks:
    """Who has which host, since when, and why.

    Args:
        request: which hosts are asked.
    """
    from provision.runs import lock

    def work(_: Host, session: Session) -> Holder | None:
        return lock.holder_of(session.batch([lock.status()], stop=False)[0])

    return _on_hosts(request, work)


def acquire(request: Request, why: str) -> Locks:
    """Keep everybody off the hosts until the locks are released. No deploy changes the hosts until then.

    Args:
        request: which hosts.
        why: shown to whoever is kept off; one line.

    Raises:
        UsageError: the reason is none.
    """
    from provision.runs import lock

    if not why.strip() or len(why) > lock.LONGEST_REASON or not why.isprintable():
        raise UsageError(f"-m takes one line of at most {lock.LONGEST_REASON} characters")

    def work(_: Host, session: Session) -> Holder | None:
        lock.checked(session.batch([lock.acquire_by_hand(why)], stop=False)[0])
        return lock.holder_of(session.batch([lock.status()], stop=False)[0])

    return _on_hosts(request, work)


def release(request: Request, *, force: bool = False) -> Locks:
    """Take away locks by hand, and those of dead runs: their process is gone from this machine, or they are silent.

    Args:
        request: which hosts.
        force: whether also the lock of a run that may still be at work is taken away.

    Returns:
        of every host who had it.
    """
    from provision.runs.lease import take_away
    from provision.runs.log import is_over

    return _on_hosts(request, lambda _, session: take_away(session, is_over, force=force))


def _on_hosts(request: Request, work: Callable[[Host, Session], Holder | None]) -> Locks:
    from provision.actions.asking import ask
    from provision.runs.log import Logs, default_folder

    answers = ask(request, work)
    return Locks(answers.inventory, answers.hosts, answers.exit_code, Logs(default_folder()).over)
