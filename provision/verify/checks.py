"""Verify: first plan's own read of every host, then the proofs that each step serves its purpose.

A step that plan would change is a failed check, so verify is never greener than plan. A step known only after another
step is not asked. The proofs run by testinfra over the open connection. Hosts run in parallel, each over a few channels
of its connection, because a proof mostly waits for a round trip. Verify changes no host.
"""

import dataclasses
import threading
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import testinfra.host

from provision.apply import diagnostics
from provision.apply.host_run import HostRun
from provision.command import Answer, Run
from provision.errors import BugError, HostError, UnreachableError
from provision.plan import role_interface
from provision.plan.planner import Change
from provision.plan.role_interface import Entry
from provision.rollout.outcome import Outcome
from provision.rollout.waves import Rollout
from provision.runs.interrupt import at_ctrl_c
from provision.ssh.session import straight
from provision.steps import speed
from provision.steps.base import NOT_ASKED, BlockedError, Check, RefusalError
from provision.verify import deep, drift, neighbours, outside
from provision.verify.backend import Backend
from provision.verify.failure import CONNECTION
from provision.verify.speeds_first import SpeedsFirst

STEPS = 16  # steps of a host at a time: while all channels are taken, their questions collect and go in one exec


@dataclass
class StepResult:
    """The result of one step.

    Args:
        step: id of the step.
        role: the role of the step.
        checks: every check, in order.
        problem: why the step could not be read or asked; empty if it could.
        waits_for: id of the step that must change first; empty if none.
        why: how the host differs, in the operator's words.
        diff: lines that show how the host differs; never a secret.
        drifted: whether a deploy would change the step.
        seconds: the duration of the proofs.
        compared_as: as of the step; empty for a result without a step.
        by_neighbour: whether another host gives the answer.
    """

    step: str
    role: str
    checks: list[Check] = field(default_factory=list)
    problem: str = ""
    waits_for: str = ""
    why: str = ""
    diff: Sequence[str] = ()
    drifted: bool = False
    seconds: float = 0.0
    compared_as: str = ""
    by_neighbour: bool = False

    @property
    def passed(self) -> bool:
        """Whether the step is proved. A step without checks is not proved."""
        return not self.problem and bool(self.checks) and all(check.passed for check in self.checks)


@dataclass
class HostResult:
    """The result of one host.

    Args:
        host: the name of the host.
        steps: the results, in the order of the sequence.
        error: why the host could not be asked, or None.
        seconds: the time spent on the host.
    """

    host: str
    steps: list[StepResult] = field(default_factory=list)
    error: HostError | None = None
    seconds: float = 0.0

    @property
    def result(self) -> str:
        """`passed`, `failed` or `unreachable`."""
        if isinstance(self.error, UnreachableError):
            return "unreachable"
        return "passed" if not self.error and all(step.passed for step in self.steps) else "failed"


class Verification:
    """Reads and plans every host, then runs the proofs of every step.

    Args:
        rollout: a run over the hosts that only plans.
        places: returns the instances of a host that neighbours may be able to reach.
        deep: whether to hash the files of the steps too (`Step.contents`).
    """

    def __init__(self, rollout: Rollout, places: neighbours.Places = neighbours.places, *, deep: bool = False) -> None:
        self.rollout = rollout
        self._deep = deep
        self._closed = threading.Event()
        self._published = places
        self.results: dict[str, HostResult] = {}
        self._runs = {member.run.host.name: member.run for member in rollout.members}
        self._futures: dict[tuple[str, str], Future[StepResult]] = {}
        self._asking: list[Future[None]] = []
        self._speeds_first = SpeedsFirst(0)
        self._questions: dict[str, list[neighbours.Place]] = {}  # host, or "" for this machine -> instances to try
        self._pool = ThreadPoolExecutor(rollout.forks, thread_name_prefix="verify")

    def start(self) -> None:
        """Read and plan every host, then begin the proofs in the background.

        Raises:
            KeyboardInterrupt: the operator stopped the verification.
        """
        with at_ctrl_c(self.rollout.interrupt):
            outcomes = self.rollout.plan(stay_connected=True)
        if self.rollout.interrupted:
            raise KeyboardInterrupt
        for outcome in outcomes:
            result = self.results[outcome.host] = _planned(outcome, self._runs[outcome.host])
            for step in result.steps:
                self._futures[outcome.host, step.step] = Future()
        self._assign()
        copies = [step.compared_as for result in self.results.values() for step in result.steps]
        self._speeds_first = SpeedsFirst(copies.count(speed.NAME))
        for name in self.results:
            self._asking.append(self._pool.submit(self._host, name))

    def finish(self) -> list[HostResult]:
        """Wait for every host, and return the results in the order of the inventory."""
        for host in self._asking:
            host.result()
        return list(self.results.values())

    def result(self, host: str, step: str) -> StepResult:
        """Wait for the result of a step."""
        return self._futures[host, step].result()

    def ids(self) -> list[tuple[str, list[str]]]:
        """Return every readable host with the ids of its steps, in order."""
        return [(name, [step.step for step in result.steps]) for name, result in self.results.items()]

    def _assign(self) -> None:
        """Choose a neighbour to try to reach each instance. The result belongs to the host of the instance."""
        reached = [self._runs[name].host for name, result in self.results.items() if not result.error]
        published = [place for host in reached for place in self._places(self._runs[host.name])]
        self._questions, unasked = neighbours.assign(published, reached)
        for place in published:
            role = role_interface.declaring(self._runs[place.host].host)
            self.results[place.host].steps.append(StepResult(place.step, role, by_neighbour=True))
            self._futures[place.host, place.step] = Future()
        self._replied(unasked)

    def _places(self, run: HostRun) -> tuple[neighbours.Place, ...]:
        try:
            return self._published(run.host, self.rollout.context.inventory, run.reader.facts) if _has(run) else ()
        except RefusalError:  # plan has refused the host for the same reason
            return ()

    def _replied(self, replies: Sequence[neighbours.Reply]) -> None:
        """Note replies, with all the replies about an instance."""
        for place in dict.fromkeys(reply.place for reply in replies):
            result = next(step for step in self.results[place.host].steps if step.step == place.step)
            result.checks += [reply.check() for reply in replies if reply.place == place]
            self._futures[place.host, place.step].set_result(result)

    def compared_names(self) -> list[str]:
        """Return the names that several steps share as copies (`Step.compared_as`), each once; the name of the speeds
        also for a single step, so that the operator reads that the speed is compared with nothing."""
        names = [step.compared_as for result in self.results.values() for step in result.steps if step.compared_as]
        return sorted({name for name in names if names.count(name) > 1 or name == speed.NAME})

    def compare(self, name: str) -> StepResult:
        """Compare all copies of a thing on all hosts. A copy that differs from most copies fails its host too.

        Args:
            name: one of `compared_names`.
        """
        copies = [(host, step) for host, of in self.results.items() for step in of.steps if step.compared_as == name]
        if name == speed.NAME:
            return self._compare_speeds(copies)
        known = [(host, step, check) for host, step in copies if (check := self._compared(host, step)) is not None]
        usual = Counter(check.got for _, _, check in known).most_common(1)[0][0] if known else ""
        result = StepResult(name, copies[0][1].role)
        for host, step, own in known:
            check = Check(f"{own.name} of {host} {step.step} is that of the other hosts", own.got, usual)
            result.checks.append(check)
            if not check.passed:
                self.results[host].steps.append(StepResult(step.step, step.role, [check]))
        result.problem = "" if known else "no instance has it"
        return result

    def _compare_speeds(self, copies: Sequence[tuple[str, StepResult]]) -> StepResult:
        """Compare the speeds of all instances. A slow instance fails its host too."""
        result = StepResult(speed.NAME, copies[0][1].role)
        groups: dict[str, list[tuple[str, StepResult, float]]] = {}
        for host, step in copies:
            for measured in (check.speed for check in self.result(host, step.step).checks):
                if measured is not None:
                    groups.setdefault(measured.what, []).append((host, step, measured.rate))
        for what, members in sorted(groups.items()):
            verdicts = [speed.judge(rate, [other for _, _, other in members]) for _, _, rate in members]
            for (host, step, _), verdict in zip(members, verdicts, strict=True):
                check = _speed_check(what, verdict)
                unasked = verdict.passed is None and (host, step) == members[0][:2]
                if check.passed and not unasked:
                    result.checks.append(dataclasses.replace(check, name=f"{check.name} ({host} {step.step})"))
                    continue
                result.checks.append(check)
                self.results[host].steps.append(StepResult(step.step, step.role, [check]))
        if not result.checks:
            result.checks.append(Check(f"{NOT_ASKED}the speeds of the instances: none was measured", True, True))
        return result

    def _compared(self, host: str, step: StepResult) -> Check | None:
        """Wait for the check that identifies a copy; None if the copy is absent."""
        return next((check for check in self.result(host, step.step).checks if check.compared and check.got), None)

    def close(self) -> None:
        """Close every connection."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.rollout.close()

    def _host(self, name: str) -> None:
        """Run the proofs of one host's steps, a few at a time.

        The last steps come first: earlier steps serve the last, and the last ask the most. Routers of requests come
        after the speeds of all hosts.
        """
        begun = time.monotonic()
        run, outcome = self._runs[name], self.results[name]
        run.say("checking", "", f"{len(outcome.steps)} steps")
        entries = {entry.step.id: entry for entry in run.steps.entries}
        backend = Backend(run.session, name, run.reader.answers, run.reader.facts)
        live = testinfra.host.Host(backend)
        routing: list[StepResult] = []
        with ThreadPoolExecutor(STEPS, thread_name_prefix=name) as pool:
            pool.submit(self._neighbours, run)
            for result in reversed(outcome.steps):
                entry = entries.get(result.step)
                if entry is not None and entry.step.routes:
                    routing.append(result)
                elif not result.by_neighbour:
                    pool.submit(self._answer, run, outcome, entry, result, live)

        def finish() -> None:
            for result in routing:
                self._answer(run, outcome, entries[result.step], result, live)
            if self._deep:
                self._hash(run, outcome, entries, live)
            backend.close()
            run.session.close()
            outcome.seconds += time.monotonic() - begun
            run.say("done", "", outcome.result)

        if routing:
            self._speeds_first.hold(lambda: self._asking.append(self._pool.submit(finish)))
        else:
            finish()

    def _neighbours(self, run: HostRun) -> None:
        """Have a host try to reach its assigned instances of neighbours; this machine tries where no neighbour can."""

        def ask(command: Run) -> Answer:
            return run.session.batch([command], stop=False)[0]

        questions = self._questions.get(run.host.name, [])
        if questions:
            self._replied(neighbours.ask(run.host.name, questions, ask))
        own = [place for place in self._questions.get("", []) if place.host == run.host.name]
        if own:
            self._replied(outside.ask(own, straight(run.session), ask))

    def _answer(self, run: HostRun, outcome: HostResult, entry: Entry | None, result: StepResult, live: Any) -> None:
        if entry is not None and not result.waits_for:
            _ask(run, outcome, entry, result, live)
        if not self._deep:
            self._futures[outcome.host, result.step].set_result(result)
        if result.compared_as == speed.NAME:
            self._speeds_first.measured()

    def _hash(self, run: HostRun, outcome: HostResult, entries: Mapping[str, Entry], live: Any) -> None:
        """Hash the files of a host's steps after all other proofs, and give the results of the steps."""
        asked = [result for result in outcome.steps if not result.by_neighbour]
        try:
            if outcome.error is None:
                pairs = [(result, entries.get(result.step)) for result in asked]
                deep.hash_files(run, pairs, live, self._closed.is_set)
        except HostError as error:
            outcome.error = error
        finally:
            for result in asked:
                self._futures[outcome.host, result.step].set_result(result)


def _speed_check(what: str, verdict: speed.Verdict) -> Check:
    if verdict.passed is None:
        return Check(f"{NOT_ASKED}whether {what} is slow: {verdict.words} were measured", True, True)
    wanted = f"not more than {speed.FACTOR:g} times slower than the median"
    return Check(f"speed of {what}", wanted if verdict.passed else verdict.words, wanted)


def _planned(outcome: Outcome, run: HostRun) -> HostResult:
    """Make the result of plan's read: every step compared, and every other change that plan would make."""
    error = outcome.error
    result = HostResult(outcome.host, seconds=outcome.seconds)
    if error is not None and (isinstance(error, UnreachableError | BugError) or not error.step):
        result.error = error
        return result
    changes = {change.step.id: change for change in outcome.plan.changes}
    refused = {entry.step.id for entry in run.steps.entries if entry.step.part_of in outcome.plan.refused}
    refusal = diagnostics.refused(outcome.plan.refused) if outcome.plan.refused else None
    problems = {failed.step: _problem(failed, run) for failed in (refusal, error) if failed is not None}
    compared = error is None or (refusal is not None and error.step == refusal.step)
    steps = [*(change.step for change in changes.values()), *(entry.step for entry in run.steps.entries)]
    copies = {step.id: step.compared_as for step in steps}
    looked = {entry.step.id: entry.role for entry in run.steps.entries if entry.role in run.roles}
    looked |= {step: change.role for step, change in changes.items() if step not in looked}
    looked |= {step: "" for step in problems if step not in looked}
    for step, role in looked.items():
        step_result = StepResult(step, role, compared_as=copies.get(step, ""))
        if step in problems:
            step_result.problem = problems[step]
        elif refusal is not None and step in refused:
            step_result.waits_for, step_result.problem = refusal.step, f"known after {refusal.step}"
        elif step in changes:
            _drifted(step_result, changes[step], run)
        elif compared:
            step_result.checks.append(Check("as declared", True, True))
        result.steps.append(step_result)
    return result


def _problem(error: HostError, run: HostRun) -> str:
    text: str = run.hide("\n".join(filter(None, [error.message, error.stderr, error.hint])))
    return text


def _drifted(step_result: StepResult, change: Change, run: HostRun) -> None:
    if change.pending:
        step_result.waits_for = change.reason.removeprefix("known after ")
        step_result.problem = change.reason
        return
    step_result.drifted = True
    step_result.checks += [_masked(run, check) for check in drift.checks_of(change)]
    step_result.why, step_result.diff = change.reason, drift.diff_of(change)


def _ask(run: HostRun, outcome: HostResult, entry: Entry, result: StepResult, live: Any) -> None:
    """Run the proofs of a step. An error in a proof fails this step alone."""
    begun = time.monotonic()
    proofs: list[Check] = []
    try:
        proofs.extend(entry.step.check(live))
        problem = "" if proofs else "the step proves nothing, which is a bug of provision"
    except HostError as error:
        outcome.error = outcome.error or error
        result.waits_for = CONNECTION if isinstance(error, UnreachableError) else ""
        problem = error.message
    except BlockedError as error:
        problem = f"cannot be asked before {error.by} has changed: {error.evidence or 'nothing was read'}"[:2000]
    except AssertionError as error:
        problem = str(error)[:2000] or "a check failed without a message"
    except Exception as error:  # noqa: BLE001 - a check parses answers of a broken host; the rest of the proofs go on
        where = traceback.extract_tb(error.__traceback__)[-1]
        problem = f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"[:2000]
    result.problem = result.problem or run.hide(problem)
    result.checks += [_masked(run, check) for check in proofs]
    result.seconds = time.monotonic() - begun


def _masked(run: HostRun, check: Check) -> Check:
    """Return a check with secrets masked. `passed` was decided on the true values."""
    got, expected = run.hide(check.got), run.hide(check.expected)
    told_apart = check.passed or got != expected
    got = got if told_apart else f"another {got}"
    return dataclasses.replace(check, name=run.hide(check.name), got=got, expected=expected)


def _has(run: HostRun) -> bool:
    """Whether the instances of a host are verified."""
    return run.host.gpu and role_interface.declaring(run.host) in run.roles
