"""The command to run next, as somebody would type it. Settings of `-e` may be secret and are left out."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from provision.actions import DeployResult, DrainResult, Request, RollbackResult, VerifyResult
from provision.actions.results import RunResult
from provision.errors import RefusedError
from provision.inventory import Mask, unsaid
from provision.rollout.outcome import Outcome

NAMED = 10  # hosts that a command names; a deploy of all leaves alone what is as declared
AGAIN, MENDED = "again", "once mended"


def after_deploy(result: DeployResult) -> list[tuple[str, str]]:
    """The commands that go on as carefully, each with what it is for; none if all is well.

    The first tries the same again on the hosts where it did not end well. Others go on without a dead host.

    Args:
        result: of a deploy.
    """
    if not result.exit_code:
        return []
    pace = result.pace
    words = ["--canary"] if pace.canary else []
    for option, value in (("--serial", pace.serial), ("--max-fail", pace.max_fail)):
        words += [option, value] if value else []
    failed = [outcome for outcome in result.outcomes if outcome.error is not None]
    wait = ["--lock-wait", "5m"] if any(outcome.result == "locked" for outcome in failed) else []
    again = _typed("deploy", *request_words(result.request, _named(result)), *words, *wait)
    return [(_label(failed), again), *_without_the_dead(result, words)]


def _named(result: RunResult[Any]) -> Sequence[str]:
    """The hosts that the next command names: none where all of them failed, or where they are many."""
    failed = result.failed
    return failed if len(failed) <= min(NAMED, len(result.outcomes) - 1) else ()


def _label(failed: Sequence[Outcome]) -> str:
    """What the same command is for. A host that was refused is refused again, until somebody has mended it."""
    errors = [outcome.error for outcome in failed if outcome.result != "stopped"]
    return MENDED if errors and all(isinstance(error, RefusedError) for error in errors) else AGAIN


def _without_the_dead(result: DeployResult, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """How to go on without hosts that do not answer: drain their instances, and leave them out."""
    dead = {outcome.host for outcome in result.outcomes if outcome.result == "unreachable"}
    hosts = {host.name: host for host in result.inventory.hosts}
    gone = [name for name in hosts if name in dead]
    if not gone or len(gone) > NAMED or len(gone) == len(result.outcomes):
        return
    serving = [name for name in gone if hosts[name].instances]
    label = f"without {', '.join(gone)}"
    if serving and any(host.balancer for name, host in hosts.items() if name not in dead):
        yield label, _typed("drain", *serving, "-i", result.request.inventory, "-m", "does not answer")
        label = "and then"
    limit = ",".join([*(result.request.limit or ["all"]), *(f"!{name}" for name in gone)])
    yield label, _typed("deploy", *request_words(result.request, [limit]), *words)


def after_rollback(result: RollbackResult) -> list[tuple[str, str]]:
    """The command that puts back the rest; none if nothing is left."""
    words = request_words(result.request, _named(result))
    return [(AGAIN, _typed("rollback", result.of, *words))] if result.exit_code else []


def after_drain(result: DrainResult, words: Sequence[str]) -> list[tuple[str, str]]:
    """The command that drains or undrains the same again, without secrets; none if all is well.

    Args:
        result: of a drain or an undrain.
        words: the options that this command alone has.
    """
    hide = Mask([secret for host in result.inventory.hosts for secret in host.secrets()])
    wait = ["--lock-wait", "5m"] if any(outcome.result == "locked" for outcome in result.outcomes) else []
    again = f"provision {result.command} {shlex.join([*request_words(result.request), *words, *wait])}"
    return [(AGAIN, hide(again))] if result.exit_code else []


def after_verify(request: Request, result: VerifyResult) -> str:
    """The command to run after a verification: to mend what it found, to ask again, or to go on.

    Args:
        request: what was verified.
        result: what came of it.
    """
    bad = [host for host in result.hosts if host.result != "passed"]
    drifted = [host.host for host in bad if any(step.drifted for step in host.steps)]
    hosts = drifted or [host.host for host in bad]
    words = request_words(request, hosts if len(hosts) < len(result.hosts) else ())
    if not bad:
        return _typed("loadtest", "-i", request.inventory)
    return _typed("deploy", *words) if drifted else _typed("verify", *words)


def request_words(request: Request, hosts: Sequence[str] = ()) -> list[str]:
    """What is typed to ask for the same again, but for what `-e` set.

    Args:
        request: what was asked for.
        hosts: names of the hosts that it is for now; none for those of the request.
    """
    limit = ",".join(hosts or request.limit)
    words = ["-i", request.inventory, *(["-l", limit] if limit else [])]
    settings = [unsaid(word) for word in request.extra_vars]
    for option, values in (("-e", settings), ("-t", request.tags), ("--skip-tags", request.skip_tags)):
        words += [word for value in values for word in (option, value)]
    for option, value in (("-u", request.user), ("--private-key", request.private_key)):
        words += [option, value] if value else []
    return [*words, *(["-K"] if request.become_password is not None else [])]


def _typed(*words: str) -> str:
    return shlex.join(["provision", *words])
