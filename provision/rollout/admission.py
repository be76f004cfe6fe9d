"""The one way up: an instance proves itself, its balancers are told where it is, and it gets requests."""

from collections.abc import Callable, Sequence
from enum import Enum

from provision.command import Answer, Run
from provision.errors import CommandError, HostError, LockedError
from provision.inventory import Host
from provision.rollout.balancer_pool import BalancerPool, update_all
from provision.rollout.roll import Roll
from provision.runs.lease import Lease
from provision.ssh.session import Session
from provision.steps.nginx.upstream import label
from provision.steps.ollama import readiness

Say = Callable[[str, str, str], None]
"""Is told what happens: kind, step, text."""


class Failure(Enum):
    """What follows where an instance does not get back in."""

    HALTS = "this run took it out or made it: it stays out, and no other instance goes out any more"
    STAYS_OUT = "an earlier run left it out: it stays out, and the roll goes on"
    IGNORED = "this run tests it once more: nothing follows"


class Admission:
    """Gives requests to instances of one host that prove themselves.

    Args:
        host: the host.
        session: its connection.
        lease: its lock.
        roll: shared by all hosts of the run.
        say: is told what happens.
    """

    def __init__(self, host: Host, session: Session, lease: Lease, roll: Roll, say: Say) -> None:
        self.host = host
        self.session = session
        self.lease = lease
        self.roll = roll
        self.say = say

    def admit(self, name: str, pools: Sequence[BalancerPool], failure: Failure = Failure.HALTS) -> None:
        """Have an instance prove itself, and balancers send to it.

        Args:
            name: its name.
            pools: the balancers that are told.
            failure: what follows where it does not get back in. Unless this run took the instance out or made it, the
                host is locked first, because another run may be at work on the instance.

        Raises:
            HostError: it did not prove itself, or a balancer could not be told.
        """
        key, members = label(self.host.name, name), self.roll.members
        try:
            address = self.prove(name, lock=failure is not Failure.HALTS)
        except HostError as error:
            belongs_to_another_run = failure is Failure.STAYS_OUT and isinstance(error, LockedError)
            if failure is not Failure.IGNORED and not belongs_to_another_run:
                members.leave_out(key, error.message, halts=failure is Failure.HALTS)
            raise
        try:
            update_all(pools, lambda pool: pool.update(up={key: address}))
        except HostError as error:
            error.message = f"{key} could not be given back: {error.message}"
            if failure is Failure.HALTS:
                members.halt(error.message)
            if failure is not Failure.IGNORED:
                members.forget(key)
            raise
        members.admit(key)

    def announce(self, name: str) -> None:
        """Say that an instance was admitted which the host's own changes had not taken out.

        Args:
            name: its name.
        """
        self.say("progress", f"test:{name}", "it gets requests again")

    def prove(self, name: str, *, lock: bool = False) -> str:
        """Have an instance prove that it can serve.

        Args:
            name: its name.
            lock: whether the host is locked first, if it is not yet.

        Returns:
            `ADDRESS:PORT` where it did.

        Raises:
            HostError: it did not.
        """
        models = next((declared.models for declared in self.host.instances if declared.name == name), ())
        command = readiness.command(name, models, any_model=not self.roll.context.brings_models)
        self.say("progress", f"test:{name}", f"waiting: {command}")
        if lock and not self.lease.held:
            self._lock()
        locks = [self.lease.acquire(command.timeout)] if self.lease.held else []
        answers = self.session.batch([*locks, command], stop=True)
        for renewed in answers[: len(locks)]:
            self.lease.took(renewed)
        return _place(self.host, name, command, answers[-1])

    def _lock(self) -> None:
        """Lock the host; a lock of a run that is over is taken over, somebody else's is waited for as long as is said.

        Raises:
            LockedError: somebody else has it.
        """
        context = self.roll.context
        answer = self.session.batch([self.lease.acquire()], stop=False)[0]
        self.lease.wait(answer, context.lock_wait, context.stop, lambda text: self.say("progress", "lock", text))


def _place(host: Host, instance: str, test: Run, answer: Answer) -> str:
    """`ADDRESS:PORT` where an instance proved itself.

    Args:
        host: its host.
        instance: its name.
        test: the command that tested it.
        answer: to the command.

    Raises:
        CommandError: it did not prove itself.
    """
    if answer.exit:
        raise CommandError(
            f"{label(host.name, instance)} is not fit to serve and stays out of the upstream: {_first(answer.error)}",
            "mend it, then deploy again: it gets back in when it passes its test",
            step=f"test:{instance}",
            command=str(test),
            exit_status=answer.exit,
            stderr=answer.error[-4000:],
        )
    return readiness.place(answer)


def _first(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[0][:300]
