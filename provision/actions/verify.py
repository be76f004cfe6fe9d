"""Read every host as a plan does, then prove that every step serves its purpose. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from provision.actions.pace import DEFAULT_PACE
from provision.actions.request import Request
from provision.actions.results import VerifyResult, accepted
from provision.events import Event, Listener, ignore

if TYPE_CHECKING:
    from provision.verify.checks import HostResult


def verify(
    request: Request,
    *,
    junit: str = "",
    deep: bool = False,
    quiet: bool = True,
    verbose: bool = False,
    listen: Listener = ignore,
) -> VerifyResult:
    """Prove every step of every host. Anything that a deploy would change is a failed check.

    Args:
        request: selects hosts and roles.
        junit: file for JUnit XML; empty for none.
        deep: whether to hash the files of all declared models too. A host with a damaged file remembers the file, and
            the next deploy replaces the file.
        quiet: whether pytest, which runs the proofs, prints nothing.
        verbose: whether pytest prints a line for every step, unless quiet.
        listen: hears every event; called from many threads.

    Raises:
        ProvisionError: nothing could be verified. A failure of a host is in the result of the host.
        KeyboardInterrupt: the operator stopped the verification.
    """
    from provision.actions.run_session import hosts_of, session_over_hosts
    from provision.verify.checks import Verification
    from provision.verify.pytest_plugin import verify as run_pytest

    session, rollout = session_over_hosts(request, DEFAULT_PACE, listen)
    inventory = session.context.inventory
    for host in hosts_of(rollout):
        listen(Event(host, "selected"))
    try:
        results = run_pytest(Verification(rollout, deep=deep), junit=junit, quiet=quiet, verbose=verbose)
    finally:
        listen(Event("", "over"))
    return VerifyResult(inventory, results, _exit_code(results), tuple(accepted(inventory, session.context.roles)))


def _exit_code(results: Sequence[HostResult]) -> int:
    """Return the exit code: first a bug, then a failed host, then an unreachable host, then a failed check."""
    errors = [result.error for result in results if result.error and result.result == "failed"]
    words = {result.result for result in results}
    if any(error.exit_code == 1 for error in errors):
        return 1
    return 3 if errors else 4 if "unreachable" in words else 5 if "failed" in words else 0
