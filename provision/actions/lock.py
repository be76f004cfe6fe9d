"""Show, take and release the locks of hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from provision.actions.request import Request
from provision.actions.results import Answers
from provision.errors import UsageError

if TYPE_CHECKING:
    from provision.inventory import Host
    from provision.runs.lock import Holder
    from provision.runs.log import Log
    from provision.ssh.transport import Transport


@dataclass(frozen=True)
class Locks(Answers["Holder | None"]):
    """The holder of every host's lock, present or former; None for a host without a lock.

    Args:
        over: holder of a lock -> this machine's log of the run that left the lock, if the run is over.
    """

    over: Callable[[Holder], Log | None]


def status(request: Request) -> Locks:
    """Return who locks which host, since when, and why.

    Args:
        request: selects the hosts.
    """
    from provision.actions.asking import setup_of

    lock = setup_of(request).host_lock

    def work(_: Host, session: Transport) -> Holder | None:
        return lock.holder_of(session.batch([lock.status()], stop=False)[0])

    return _on_hosts(request, work)


def acquire(request: Request, why: str) -> Locks:
    """Lock hosts by hand. No run changes the hosts until `release`.

    Args:
        request: selects the hosts.
        why: the reason shown to operators; one line.

    Raises:
        UsageError: the reason is empty, too long, or more than one line.
    """
    from provision.actions.asking import setup_of
    from provision.runs.lock import LONGEST_REASON

    if not why.strip() or len(why) > LONGEST_REASON or not why.isprintable():
        raise UsageError(f"-m takes one line of at most {LONGEST_REASON} characters")
    lock = setup_of(request).host_lock

    def work(_: Host, session: Transport) -> Holder | None:
        lock.checked(session.batch([lock.acquire_by_hand(why)], stop=False)[0])
        return lock.holder_of(session.batch([lock.status()], stop=False)[0])

    return _on_hosts(request, work)


def release(request: Request, *, force: bool = False) -> Locks:
    """Release locks by hand, and locks of dead runs: the process is gone from this machine, or the run is silent.

    Args:
        request: selects the hosts.
        force: whether to release the lock of a run that may still be at work too.

    Returns:
        the former holder of every host's lock.
    """
    from provision.actions.asking import setup_of
    from provision.runs.lease import take_away
    from provision.runs.log import is_over

    lock = setup_of(request).host_lock
    return _on_hosts(request, lambda _, session: take_away(session, lock, is_over, force=force))


def _on_hosts(request: Request, work: Callable[[Host, Transport], Holder | None]) -> Locks:
    from provision.actions.asking import ask, setup_of
    from provision.runs.log import Logs, default_folder

    answers = ask(request, work)
    over = partial(Logs(default_folder()).left_by, who=setup_of(request).who)
    return Locks(answers.inventory, answers.hosts, answers.exit_code, over)
