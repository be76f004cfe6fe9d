"""The command to run next, as somebody would type it. Settings of `-e` may be secret and are left out."""

import shlex
from collections.abc import Sequence

from provision.actions import DeployResult, DrainResult, Request, RollbackResult, VerifyResult
from provision.inventory import Mask, unsaid


def after_deploy(result: DeployResult) -> str:
    """The command that tries the same again as carefully, on the hosts where it did not end well; empty if all is well.

    Args:
        result: of a deploy.
    """
    pace = result.pace
    words = ["--canary"] if pace.canary else []
    for option, value in (("--serial", pace.serial), ("--max-fail", pace.max_fail)):
        words += [option, value] if value else []
    return _typed("deploy", *request_words(result.request, result.failed), *words) if result.exit_code else ""


def after_rollback(result: RollbackResult) -> str:
    """The command that puts back the rest; empty if nothing is left."""
    words = request_words(result.request, result.failed)
    return _typed("rollback", result.of, *words) if result.exit_code else ""


def after_drain(result: DrainResult, words: Sequence[str]) -> str:
    """The command that drains or undrains the same again, without secrets; empty if all is well.

    Args:
        result: of a drain or an undrain.
        words: the options that this command alone has.
    """
    hide = Mask([secret for host in result.inventory.hosts for secret in host.secrets()])
    again = f"provision {result.command} {shlex.join([*request_words(result.request), *words])}"
    return hide(again) if result.exit_code else ""


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
    return _typed("deploy", *words) if drifted else _typed("verify", *words, "-v")


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
