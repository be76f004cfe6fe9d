"""The next command, as an operator types it. Settings of `-e` may be secret and are left out."""

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from provision.actions import DeployResult, DrainResult, Request, RollbackResult, SwitchResult, VerifyResult
from provision.actions.request import FORCE_FIT
from provision.actions.results import RunResult
from provision.errors import RefusedError
from provision.inventory import Mask, unsaid
from provision.rollout.outcome import Outcome

NAMED = 10  # hosts in a command; a deploy of all hosts leaves converged hosts alone in any case
AGAIN, MENDED = "again", "once mended"


def after_deploy(result: DeployResult) -> list[tuple[str, str]]:
    """Return the commands that go on as carefully, each with its purpose; none if all is well.

    The first command repeats the deploy on the failed hosts. Further commands go on without a dead host.

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
    return [(_label(failed), again), *_back(result), *_without_the_dead(result, words)]


def _named(result: RunResult[Any]) -> Sequence[str]:
    """Return the hosts for the next command: none if all hosts failed, or if the failed hosts are many."""
    failed = result.failed
    return failed if len(failed) <= min(NAMED, len(result.outcomes) - 1) else ()


def _label(failed: Sequence[Outcome]) -> str:
    """Return the purpose of the same command. A refused host is refused again until an operator has mended the host."""
    errors = [outcome.error for outcome in failed if outcome.result != "stopped"]
    return MENDED if errors and all(isinstance(error, RefusedError) for error in errors) else AGAIN


def _back(result: RunResult[Any]) -> Iterator[tuple[str, str]]:
    """Yield the command that starts the previous containers of failed instances again."""
    kept = {outcome.host: outcome.error.previous for outcome in result.outcomes if outcome.error is not None}
    hosts = [host for host, names in kept.items() if names]
    if hosts:
        words = request_words(result.request, hosts if len(hosts) <= NAMED else ())
        yield "or start the old containers again", _typed("rollback", result.run_id, *words)


def _without_the_dead(result: DeployResult, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the commands that go on without dead hosts: drain their instances, and leave the hosts out."""
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
    limit = [*(result.request.limit or ["all"]), *(f"!{name}" for name in gone)]
    yield label, _typed("deploy", *request_words(result.request, limit), *words)


def after_rollback(result: RollbackResult) -> list[tuple[str, str]]:
    """Return the command that rolls back the rest; none if nothing is left."""
    words = request_words(result.request, _named(result))
    return [(AGAIN, _typed("rollback", result.of, *words)), *_back(result)] if result.exit_code else []


def after_drain(result: DrainResult, words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the command that repeats a drain or an undrain, without secrets; none if all is well.

    Args:
        result: of a drain or an undrain.
        words: the options of this command alone.
    """
    hide = Mask([secret for host in result.inventory.hosts for secret in host.secrets()])
    wait = ["--lock-wait", "5m"] if any(outcome.result == "locked" for outcome in result.outcomes) else []
    again = f"provision {result.command} {shlex.join([*request_words(result.request), *words, *wait])}"
    return [(AGAIN, hide(again))] if result.exit_code else []


def after_switch(result: SwitchResult, words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the command that repeats a switch; none if all is well.

    Args:
        result: of a switch.
        words: the options of this command alone.
    """
    again = f"provision {result.command} {shlex.join([*request_words(result.request), *words])}"
    return [("why", _typed("verify", "-i", result.request.inventory)), (AGAIN, again)] if result.exit_code else []


def after_verify(request: Request, result: VerifyResult) -> str:
    """Return the command after a verification: to mend the failures, to ask again, or to go on.

    Args:
        request: of the verification.
        result: of the verification.
    """
    bad = [host for host in result.hosts if host.result != "passed"]
    drifted = [host.host for host in bad if any(step.drifted for step in host.steps)]
    hosts = drifted or [host.host for host in bad]
    words = request_words(request, hosts if len(hosts) < len(result.hosts) else ())
    if not bad:
        return _typed("loadtest", "-i", request.inventory)
    return _typed("deploy", *words) if drifted else _typed("verify", *words)


def request_words(request: Request, hosts: Sequence[str] = ()) -> list[str]:
    """Return the words of a command for the same request, without `-e`.

    Args:
        request: the request.
        hosts: patterns of the hosts; empty for the hosts of the request.
    """
    words = ["-i", request.inventory, *_limit(hosts or request.limit)]
    settings = [unsaid(word) for word in request.extra_vars]
    for option, values in (("-e", settings), ("-t", request.tags), ("--skip-tags", request.skip_tags)):
        words += [word for value in values for word in (option, value)]
    for option, value in (("-u", request.user), ("--private-key", request.private_key)):
        words += [option, value] if value else []
    words += [FORCE_FIT] if request.force_fit else []
    return [*words, *(["-K"] if request.become_password is not None else [])]


def _limit(patterns: Sequence[str]) -> list[str]:
    """Return the options for patterns: a single option, but for `@FILE`, because a comma is part of a file's name."""
    files = [pattern for pattern in patterns if pattern.startswith("@")]
    rest = ",".join(pattern for pattern in patterns if not pattern.startswith("@"))
    return [word for pattern in (*files, rest) if pattern for word in ("-l", pattern)]


def _typed(*words: str) -> str:
    return shlex.join(["provision", *words])
