"""Admission, the only way back into an upstream: test the instance, tell the balancers its address, uncordon."""

from collections.abc import Callable, Sequence
from enum import Enum

from provision.command import Answer, Run
from provision.errors import CommandError, HostError, LockedError
from provision.inventory import Host
from provision.rollout.balancer_pool import BalancerPool, update_all
from provision.rollout.roll import Roll
from provision.runs.lease import Lease
from provision.ssh.transport import Transport
from provision.steps import engines
from provision.steps.base import NOT_ASKED
from provision.steps.instance.engine import proved_at
from provision.steps.nginx.upstream import label
from provision.steps.speed import FACTOR
from provision.terminal_text import ending

Say = Callable[[str, str, str], None]
"""Tells the operator about progress: kind of event, id of the step, text."""


class Failure(Enum):
    """The consequence for the roll if an instance is not admitted."""

    HALTS = "this run took it out or made it: it stays out, and no other instance goes out any more"
    STAYS_OUT = "an earlier run left it out: it stays out, and the roll goes on"
    IGNORED = "this run tests it once more: nothing follows"


class Admission:
    """Tests instances of one host, and uncordons an instance after a passed test.

    Args:
        host: the gpu host.
        session: the connection to the host.
        lease: the lock on the host.
        roll: shared by all hosts of the run.
        say: tells the operator about progress.
    """

    def __init__(self, host: Host, session: Transport, lease: Lease, roll: Roll, say: Say) -> None:
        self.host = host
        self.session = session
        self.lease = lease
        self.roll = roll
        self.say = say

    def admit(self, name: str, pools: Sequence[BalancerPool], failure: Failure = Failure.HALTS) -> None:
        """Test an instance, then have the balancers send requests to the instance.

        Args:
            name: the instance.
            pools: the balancers to tell.
            failure: the consequence for the roll of a failed test. Unless `HALTS`, the host is locked first: another
                run may be at work on an instance that this run neither cordoned nor made.

        Raises:
            HostError: the test failed, or a balancer could not be told.
        """
        key, members = label(self.host.name, name), self.roll.members
        try:
            address = self.prove(name, lock=failure is not Failure.HALTS)
        except HostError as error:
            belongs_to_another_run = failure is Failure.STAYS_OUT and isinstance(error, LockedError)
            if failure is not Failure.IGNORED and not belongs_to_another_run:
                members.leave_out(key, _named(key, error.message), halts=failure is Failure.HALTS)
            raise
        try:
            update_all(pools, lambda pool: pool.update(up={key: address}))
        except HostError as error:
            error.message = f"{key} could not be admitted: {error.message}"
            if failure is Failure.HALTS:
                members.halt(error.message)
            if failure is not Failure.IGNORED:
                members.forget(key)
            raise
        members.admit(key)

    def announce(self, name: str) -> None:
        """Report the admission of an instance that no change of this host had taken out.

        Args:
            name: the instance.
        """
        self.say("progress", f"test:{name}", "the instance gets requests again")

    def prove(self, name: str, *, lock: bool = False, failed: str = "stays out of the upstream") -> str:
        """Run the readiness test of an instance.

        Args:
            name: the instance.
            lock: lock the host first, unless this run has the lock already.
            failed: the consequence of a failed test, for the operator.

        Returns:
            `ADDRESS:PORT` of the instance.

        Raises:
            HostError: the test failed.
        """
        models = next((declared.models for declared in self.host.instances if declared.name == name), ())
        test = engines.of(self.host.serving).readiness
        command = test(name, models, any_model=not self.roll.context.brings_models)
        self.say("progress", f"test:{name}", f"waiting: {command}")
        if lock and not self.lease.held:
            self._lock()
        answer = self._ask(command)
        address = _place(label(self.host.name, name), command, answer, failed)
        slow = self._slowness(name, answer)
        if slow:  # the first answer after a load may be slow on a healthy card: kernels are loaded, graphs are captured
            self.say("progress", f"test:{name}", f"waiting: {command} once more, because {slow}")
            answer = self._ask(command)
            address = _place(label(self.host.name, name), command, answer, failed)
            slow = self._slowness(name, answer)
        if slow:
            raise CommandError(
                f"{label(self.host.name, name)} is not fit to serve and {failed}: {slow}",
                "look whether the instance works on the CPU (docs/runbooks/cpu.md), then deploy again",
                step=f"test:{name}",
                command=str(command),
            )
        return address

    def _ask(self, test: Run) -> Answer:
        """Run a test, under a renewed lock if this run has the lock."""
        locks = [self.lease.acquire(test.timeout)] if self.lease.held else []
        answers = self.session.batch([*locks, test], stop=True)
        for renewed in answers[: len(locks)]:
            self.lease.took(renewed)
        return answers[-1]

    def _slowness(self, name: str, answer: Answer) -> str:
        """Return how an instance is several times slower than the other instances of the run; empty for a usual speed,
        and where nobody can tell."""
        measured = engines.of(self.host.serving).speed(answer)
        for line in answer.text.splitlines():
            if line.startswith(NOT_ASKED):
                self.say("progress", f"test:{name}", line[:300])
        if measured is None:
            return ""
        verdict = self.roll.speeds.judge(label(self.host.name, name), measured)
        if verdict.passed is None:
            self.say("progress", f"test:{name}", f"{NOT_ASKED}whether {measured.what} is slow: {verdict.words}")
        if verdict.passed is not False:
            return ""
        return f"{measured.what} is more than {FACTOR:g} times slower than elsewhere: {verdict.words}"

    def _lock(self) -> None:
        """Lock the host: take over the lock of a dead run, and wait `--lock-wait` for the lock of a live run.

        Raises:
            LockedError: another run still has the lock.
        """
        context = self.roll.context
        answer = self.session.batch([self.lease.acquire()], stop=False)[0]
        self.lease.wait(answer, context.lock_wait, context.stop, lambda text: self.say("progress", "lock", text))


def _place(key: str, test: Run, answer: Answer, failed: str) -> str:
    """Read `ADDRESS:PORT` from the answer of a readiness test.

    Args:
        key: the label of the instance.
        test: the command of the test.
        answer: the answer to the command.
        failed: the consequence of a failed test.

    Raises:
        CommandError: the test failed.
    """
    if answer.exit:
        raise CommandError(
            f"{key} is not fit to serve and {failed}: {_first(answer.error)}",
            "repair the instance, then deploy again: the instance gets requests again after a passed test",
            step=f"test:{key.rpartition('/')[2]}",
            command=str(test),
            exit_status=answer.exit,
            stderr=ending(answer.error, 4000),
        )
    return proved_at(answer)


def _first(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[0][:300]


def _named(key: str, message: str) -> str:
    """Return an error message that names the instance: the operator of another host reads it too."""
    return message if key in message else f"{key}: {message}"
