"""Drain instances on the balancers by hand, and undrain them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from provision.actions.exit_code import INTERRUPTED
from provision.actions.pace import DEFAULT_PACE, Pace
from provision.actions.request import Request
from provision.actions.results import DrainResult
from provision.errors import GuardError, UsageError
from provision.events import Listener, ignore
from provision.terminal_text import line

if TYPE_CHECKING:
    from provision.actions.draining import Drain, Draining
    from provision.actions.run_session import RunSession
    from provision.runs.journal import Kind

NAMED = 20  # instances shown by name; the rest is a number


def drain(
    request: Request,
    instances: Sequence[str],
    pace: Pace = DEFAULT_PACE,
    *,
    why: str = "",
    timeout: float | None = None,
    force: bool = False,
    confirm: Callable[[Sequence[str]], bool] | None = None,
    listen: Listener = ignore,
    tell: Callable[[DrainResult], None] = ignore,
) -> DrainResult:
    """Have the balancers send nothing more to instances, and wait until their streams have ended.

    Args:
        request: the inventory, the limit on hosts, and how to connect; its roles are not used.
        instances: `PATTERN` or `PATTERN/INSTANCE`; `all` for every instance.
        pace: a drain uses `lock_wait` alone.
        why: the reason shown to operators; one line.
        timeout: seconds to wait for streams; None for `ollama.drain_timeout`.
        force: whether to drain the last instances of a model without a question.
        confirm: gets a sentence for each model that would have no instance left, and returns whether to go on.
        listen: hears the progress.
        tell: gets the result before the hooks that follow the run; Ctrl-C does not interrupt the call.

    Returns:
        the result; `run_id` is empty if the drain did not begin.

    Raises:
        GuardError: a model would have no instance left, and nobody can be asked: nothing was done.
        ProvisionError: nothing was done. A failure of a balancer is in its outcome.
    """
    from provision.runs.lock import LONGEST_REASON

    if len(why) > LONGEST_REASON or not why.isprintable():
        raise UsageError(f"-m takes one line of at most {LONGEST_REASON} characters")
    session, draining = _prepared("drain", request, instances, pace, listen)
    if not force and not _agreed(draining, confirm):
        context = draining.context
        return DrainResult("", context.command, request, pace, context.inventory, [], INTERRUPTED)
    return _run(session, draining, partial(draining.drain, why, timeout), tell)


def undrain(
    request: Request,
    instances: Sequence[str],
    pace: Pace = DEFAULT_PACE,
    *,
    listen: Listener = ignore,
    tell: Callable[[DrainResult], None] = ignore,
) -> DrainResult:
    """Test instances, and have the balancers send to the healthy instances again.

    Args:
        request: the inventory, the limit on hosts, and how to connect; its roles are not used.
        instances: `PATTERN` or `PATTERN/INSTANCE`; `all` for every instance.
        pace: an undrain uses `lock_wait` alone.
        listen: hears the progress.
        tell: gets the result before the hooks that follow the run; Ctrl-C does not interrupt the call.

    Raises:
        ProvisionError: nothing was done. A failure of a host is in its outcome.
    """
    session, draining = _prepared("undrain", request, instances, pace, listen)
    return _run(session, draining, draining.undrain, tell)


def _prepared(
    verb: Kind, request: Request, instances: Sequence[str], pace: Pace, listen: Listener
) -> tuple[RunSession, Draining]:
    from provision.actions.draining import Draining
    from provision.actions.run_session import RunSession
    from provision.plan import role_interface

    inventory = role_interface.load(request.inventory, request.overrides)
    session = RunSession(request, pace, verb, inventory, frozenset(), listen, words=instances)
    return session, Draining(session.context, request.become_password, instances, request.limit, request.forks)


def _run(
    session: RunSession,
    draining: Draining,
    work: Callable[[], Sequence[Drain]],
    tell: Callable[[DrainResult], None],
) -> DrainResult:
    result = partial(session.result, DrainResult)
    return session.run(draining, work, draining.hosts(), result, tell, instances=draining.labels())


def _agreed(draining: Draining, confirm: Callable[[Sequence[str]], bool] | None) -> bool:
    """Whether instances may be drained: every model keeps an instance, or the operator agrees.

    Raises:
        GuardError: a model would have no instance left, and nobody can be asked.
    """
    agreed = False
    try:
        sentences = _losses(draining.last())
        if sentences and confirm is None:
            hint = "drain fewer instances, or use --force: requests for a model without an instance fail"
            raise GuardError("; ".join(sentences), hint)
        agreed = confirm is None or not sentences or confirm(sentences)
    finally:
        if not agreed:
            draining.close()
    return agreed


def _losses(last: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence for each model that would have no instance left.

    Args:
        last: model -> the last instances of the model.
    """
    sentences = []
    for model, labels in last.items():
        names = ", ".join(labels[:NAMED]) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")
        what = f"the last that serve {model}" if model else "the last without a declared model that get requests"
        sentences.append(line(f"{names} {'is' if len(labels) == 1 else 'are'} {what}", 1000))
    return sentences
