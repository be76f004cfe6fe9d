"""A verification as pytest items, one per step and host: report, exit code and JUnit are pytest's own."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from provision.errors import ProvisionError
from provision.terminal_text import line
from provision.verify.checks import HostResult, StepResult, Verification
from provision.verify.failure import CONNECTION, describe

FLEET = "fleet"  # pytest's node for checks across all hosts
ASKED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)


class StepFailed(Exception):  # noqa: N818 - an outcome, not an error of the program
    """A step is not proved."""

    def __init__(self, result: StepResult) -> None:
        super().__init__(describe(result))
        self.result = result


class _StepItem(pytest.Item):
    """One step on one host."""

    def __init__(self, *, wait: Callable[[], StepResult], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wait = wait

    def runtest(self) -> None:
        result = self.wait()
        if result.waits_for:  # the step waited for has failed, and is reported once
            pytest.skip(result.problem)
        if not result.passed:
            raise StepFailed(result)

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        if isinstance(excinfo.value, StepFailed):
            return describe(excinfo.value.result)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[str, None, str]:
        # Not the node id: pytest would turn the dots of a path into `::` in what it prints.
        return self.nodeid, None, self.nodeid.replace("::", " ", 1)


class _HostNode(pytest.Collector):
    """One host, with its steps as children."""

    def collect(self) -> list[pytest.Item]:
        return []


class _Plugin:
    """Makes the items for pytest."""

    def __init__(self, verification: Verification) -> None:
        self.verification = verification

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Read and plan every host, then collect one item per host and step."""
        verification = self.verification
        verification.start()
        session.items = []
        for host, ids in verification.ids():
            node = _HostNode.from_parent(session, name=host, nodeid=host)
            session.items += [
                self._item(node, step, functools.partial(verification.result, host, step)) for step in ids
            ]
            if not ids and (error := verification.results[host].error):
                lost = StepResult(CONNECTION, "", problem=error.message)
                session.items.append(self._item(node, CONNECTION, functools.partial(_given, lost)))
        fleet = _HostNode.from_parent(session, name=FLEET, nodeid=FLEET)
        for name in verification.compared_names():
            session.items.append(self._item(fleet, name, functools.partial(verification.compare, name)))
        session.testscollected = len(session.items)
        return True

    def _item(self, node: _HostNode, step: str, wait: Callable[[], StepResult]) -> pytest.Item:
        # The id of an orphan may contain a file name from the host, which may contain anything.
        item: pytest.Item = _StepItem.from_parent(node, name=line(step, 300), wait=wait)
        return item


def _given(result: StepResult) -> StepResult:
    return result


def verify(
    verification: Verification, *, junit: str = "", quiet: bool = False, verbose: bool = False
) -> list[HostResult]:
    """Ask everything, and report as pytest does.

    Args:
        verification: the verification to run.
        junit: file for JUnit XML, or empty.
        quiet: print nothing.
        verbose: print a line for every step, not only for failed steps.

    Returns:
        the results of every host, in the order of the inventory.
    """
    args = ["-c", os.devnull, "--rootdir", os.curdir, "-p", "no:cacheprovider", "-p", "no:logging", "-s"]
    args += ["--disable-plugin-autoload", "--noconftest"]
    args += ["-p", "no:terminal"] if quiet else ["--no-header", "--tb=short", "-rN", "-v" if verbose else "-q"]
    args += [f"--junitxml={junit}", "-o", "junit_suite_name=provision"] if junit else []
    try:
        with _without_the_users_pytest():
            code = pytest.main(args, plugins=[_Plugin(verification)])
        if code == pytest.ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if code not in ASKED:
            name = pytest.ExitCode(code).name.lower()
            raise ProvisionError(f"pytest did not ask every step: {name}", "read pytest's output above")
        return verification.finish()
    finally:
        verification.close()


@contextlib.contextmanager
def _without_the_users_pytest() -> Iterator[None]:
    """Keep the operator's own settings for pytest from leaving out or breaking a proof."""
    kept = {name: os.environ.pop(name) for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
