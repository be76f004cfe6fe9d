"""The steps' own checks as pytest items, by testinfra, over the connection that is already open.

Hosts are asked in parallel, each over a few channels of its one connection, because a check mostly waits for a round
trip; pytest collects one item per step and host and waits for its answer, so that its report, its exit code and JUnit
are pytest's own.
"""

import contextlib
import functools
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import testinfra.host

from provision.command import Run
from provision.errors import BugError, HostError, ProvisionError, UnreachableError
from provision.inventory import Host, Inventory, Mask
from provision.live import Backend
from provision.printable import line, lines
from provision.sequence import Entry, steps
from provision.ssh import Session
from provision.steps import engine, servers
from provision.steps.base import Check

FLEET = "fleet"  # where pytest shows what is asked of all hosts together
MODELS = "models"
ASKED = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
STEPS = 16  # steps of one host at a time: what several of them ask while all channels are taken goes in one exec
# What many steps look at: each is asked once.
LOOKS: dict[Run, Callable[[Any], object]] = {engine.COMMAND: engine.read_live, servers.COMMAND: servers.read_live}


@dataclass
class StepResult:
    """What one step's checks said.

    Args:
        step: id of the step.
        role: its role.
        checks: every proof, in order.
        problem: why the checks could not be asked, or empty.
        seconds: how long it took.
    """

    step: str
    role: str
    checks: list[Check] = field(default_factory=list)
    problem: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the step is proved: a step that proves nothing is not."""
        return not self.problem and bool(self.checks) and all(check.passed for check in self.checks)


@dataclass
class HostResult:
    """What became of one host's verification.

    Args:
        host: its name.
        expected: how many steps it has.
        steps: the results, in the order of the sequence.
        error: why the host could not be asked, or None.
        seconds: how long it took.
    """

    host: str
    expected: int
    steps: list[StepResult] = field(default_factory=list)
    error: HostError | None = None
    seconds: float = 0.0

    @property
    def result(self) -> str:
        """`passed`, `failed` or `unreachable`."""
        if isinstance(self.error, UnreachableError):
            return "unreachable"
        asked = len(self.steps) >= self.expected
        return "passed" if asked and not self.error and all(step.passed for step in self.steps) else "failed"


class Verification:
    """Asks every step of every host.

    Args:
        inventory: all hosts.
        hosts: those to ask.
        roles: the roles whose steps are asked.
        become_password: sudo's password (`-K`), or None.
        forks: hosts at the same time.
    """

    def __init__(
        self,
        inventory: Inventory,
        hosts: Sequence[Host],
        roles: frozenset[str],
        become_password: str | None,
        forks: int,
    ) -> None:
        self.hosts = hosts
        self._entries = {h.name: [e for e in steps(h, inventory) if e.role in roles] for h in hosts}
        self.results = {host.name: HostResult(host.name, len(self._entries[host.name])) for host in hosts}
        self._masks = {host.name: Mask(host.secrets()) for host in hosts}
        self._sessions = {host.name: Session(host.connection, become_password) for host in hosts}
        self._futures: dict[tuple[str, str], Future[StepResult]] = {
            (host.name, entry.step.id): Future() for host in hosts for entry in self._entries[host.name]
        }
        self._asking: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(max(1, min(forks, len(hosts))), thread_name_prefix="verify")

    def start(self) -> None:
        """Begin to ask, in the background."""
        self._asking = [self._pool.submit(self._host, host) for host in self.hosts]

    def finish(self) -> list[HostResult]:
        """Wait for every host, also those that have no step to ask; their results in the order of the hosts."""
        for one in self._asking:
            one.result()
        return [self.results[host.name] for host in self.hosts]

    def result(self, host: str, step: str) -> StepResult:
        """Wait for what a step's checks say."""
        return self._futures[host, step].result()

    def ids(self) -> list[tuple[str, list[str]]]:
        """Every host with its steps' ids, in order."""
        return [(host.name, [entry.step.id for entry in self._entries[host.name]]) for host in self.hosts]

    def models(self) -> list[str]:
        """The models that more than one step has, each once: their digests are compared over all hosts."""
        names = [_model(step) for _, ids in self.ids() for step in ids if _model(step)]
        return sorted({name for name in names if names.count(name) > 1})

    def compared(self, model: str) -> StepResult:
        """Whether all instances of all hosts have the same bytes under a model's name; tags move (FACTS 4.4).

        An instance that differs from most fails its host too.
        """
        found = {(h, s): self._digest(h, s) for h, ids in self.ids() for s in ids if _model(s) == model}
        known = {place: digest for place, digest in found.items() if digest}
        usual = Counter(known.values()).most_common(1)[0][0] if known else ""
        result = StepResult(f"model:{model}", MODELS)
        for (host, step), digest in known.items():
            check = Check(f"digest of {host} {step} is that of the other hosts", digest, usual)
            result.checks.append(check)
            if not check.passed:
                self.results[host].steps.append(StepResult(step, MODELS, [check]))
        result.problem = "" if known else "no instance has it"
        return result

    def _digest(self, host: str, step: str) -> str:
        checks = self.result(host, step).checks
        return next((str(check.got) for check in checks if check.name == "digest"), "")

    def close(self) -> None:
        """Close every connection."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for session in self._sessions.values():
            session.close()

    def _host(self, host: Host) -> None:
        begun = time.monotonic()
        outcome = self.results[host.name]
        session = self._sessions[host.name]
        try:
            session.open()
        except Exception as error:  # noqa: BLE001 - whoever waits for this host must not wait for ever
            outcome.error = error if isinstance(error, HostError) else BugError(error)
        backend = Backend(session, host.name)
        self._steps(outcome, testinfra.host.Host(backend))
        backend.close()
        outcome.seconds = time.monotonic() - begun

    def _steps(self, outcome: HostResult, live: Any) -> None:
        """Ask every step, a few at a time.

        What many steps look at is asked first, and they come last: until then they would only wait for it. Else the
        last steps come first: they are what the others are for, and ask the most.
        """
        entries = self._entries[outcome.host]
        looks = [LOOKS.get(entry.step.fact().command) for entry in entries]
        order = sorted(range(len(entries)), key=lambda number: (looks[number] is not None, -number))
        with ThreadPoolExecutor(STEPS, thread_name_prefix=outcome.host) as pool:
            for look in {look for look in looks if look and not outcome.error}:
                pool.submit(look, live)
            asked = {number: pool.submit(self._answer, outcome, entries[number], live) for number in order}
        outcome.steps += [asked[number].result() for number in range(len(entries))]

    def _answer(self, outcome: HostResult, entry: Entry, live: Any) -> StepResult:
        result = _lost(entry, outcome.error) if outcome.error else self._ask(outcome, entry, live)
        self._futures[outcome.host, entry.step.id].set_result(result)
        return result

    def _ask(self, outcome: HostResult, entry: Entry, live: Any) -> StepResult:
        """A step's checks. Whatever one of them raises fails this step and no other."""
        begun = time.monotonic()
        result = StepResult(entry.step.id, entry.role)
        try:
            result.checks.extend(entry.step.check(live))
            if not result.checks:
                result.problem = "the step proves nothing, which is a bug of provision"
        except HostError as error:
            outcome.error = error
            result.problem = error.message
        except AssertionError as error:
            result.problem = str(error)[:2000] or "a check failed without a word"
        except Exception as error:  # noqa: BLE001 - a check reads what a broken host says; that must not end the others
            where = traceback.extract_tb(error.__traceback__)[-1]
            result.problem = f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"[:2000]
        result.problem = self._masks[outcome.host](result.problem)
        result.checks = [self._masked(outcome.host, check) for check in result.checks]
        result.seconds = time.monotonic() - begun
        return result

    def _masked(self, host: str, check: Check) -> Check:
        """The check without secrets; whether it passed was found out with them."""
        hide = self._masks[host]
        got, expected = hide(check.got), hide(check.expected)
        told_apart = check.passed or got != expected
        return Check(hide(check.name), got if told_apart else f"another {got}", expected)


def _lost(entry: Entry, error: HostError) -> StepResult:
    return StepResult(entry.step.id, entry.role, problem=error.message)


class _StepItem(pytest.Item):
    """One step on one host."""

    def __init__(self, *, wait: Callable[[], StepResult], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wait = wait

    def runtest(self) -> None:
        result = self.wait()
        if not result.passed:
            raise StepFailed(result)

    def repr_failure(self, excinfo: Any, style: Any = None) -> str:
        if isinstance(excinfo.value, StepFailed):
            return describe(excinfo.value.result)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[str, None, str]:
        # Not the node id: pytest would turn the dots of a path into `::` in what it prints.
        return self.nodeid, None, self.nodeid.replace("::", " ", 1)


class StepFailed(Exception):  # noqa: N818 - what happened
    """A step is not proved."""

    def __init__(self, result: StepResult) -> None:
        super().__init__(describe(result))
        self.result = result


class _HostNode(pytest.Collector):
    """One host; its children are its steps."""

    def collect(self) -> list[pytest.Item]:
        return []


class _Plugin:
    """Gives pytest its items."""

    def __init__(self, verification: Verification) -> None:
        self.verification = verification

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self, session: pytest.Session) -> bool:
        """Collect one item per host and step, and begin to ask."""
        self.verification.start()
        session.items = []
        found = self.verification
        for host, ids in found.ids():
            node = _HostNode.from_parent(session, name=host, nodeid=host)
            session.items += [self._item(node, step, functools.partial(found.result, host, step)) for step in ids]
        fleet = _HostNode.from_parent(session, name=FLEET, nodeid=FLEET)
        for model in found.models():
            session.items.append(self._item(fleet, f"model:{model}", functools.partial(found.compared, model)))
        session.testscollected = len(session.items)
        return True

    def _item(self, node: _HostNode, step: str, wait: Callable[[], StepResult]) -> pytest.Item:
        item: pytest.Item = _StepItem.from_parent(node, name=step, wait=wait)
        return item


def _model(step: str) -> str:
    """The model of a step `model:INSTANCE/NAME`, or nothing."""
    kind, _, rest = step.partition(":")
    return rest.partition("/")[2] if kind == "model" else ""


def describe(result: StepResult) -> str:
    """What is wrong with a step, in lines: each failed check with what was expected and what was got."""
    said = lines(result.problem, most=10) if result.problem else []
    for check in result.checks:
        if not check.passed:
            said += [line(check.name), f"  expected {line(check.expected, 600)}", f"  got      {line(check.got, 600)}"]
    return "\n".join(said)


def verify(verification: Verification, *, junit: str = "", quiet: bool = False) -> list[HostResult]:
    """Ask everything, and report it as pytest does.

    Args:
        verification: what to ask.
        junit: file for JUnit XML, or empty.
        quiet: print nothing.

    Returns:
        every host's results, in the order of the hosts.
    """
    args = ["-c", os.devnull, "--rootdir", os.curdir, "-p", "no:cacheprovider", "-p", "no:logging", "-s"]
    args += ["--disable-plugin-autoload", "--noconftest"]
    args += ["-p", "no:terminal"] if quiet else ["-v", "--no-header", "--tb=short"]
    args += [f"--junitxml={junit}", "-o", "junit_suite_name=provision"] if junit else []
    try:
        with _without_the_users_pytest():
            code = pytest.main(args, plugins=[_Plugin(verification)])
        if code == pytest.ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if code not in ASKED:
            name = pytest.ExitCode(code).name.lower()
            raise ProvisionError(f"pytest did not ask every step: {name}", "see what it printed")
        return verification.finish()
    finally:
        verification.close()


@contextlib.contextmanager
def _without_the_users_pytest() -> Iterator[None]:
    """What the operator has set for pytest elsewhere must not leave out or break a proof."""
    kept = {name: os.environ.pop(name) for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
