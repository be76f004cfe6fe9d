"""Carries out a change: short commands share an exec with the reads that follow, long commands are jobs."""

import dataclasses
import io
import time
from collections.abc import Callable, Mapping, Sequence

from provision.apply import diagnostics
from provision.command import Answer, Command, Obtain, Put, Run
from provision.errors import HostError
from provision.inventory import Host
from provision.plan.planner import Change
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.transport import Transport, first_failure

LONGEST = 500  # characters of an error in the journal
INLINE = 48 * 1024  # bytes of a file that ride in a script; a larger file has its own exec

Say = Callable[[str, str, str], None]
"""Tells the operator about progress: kind of event, id of the step, text."""


class Performer:
    """Carries out changes on one host.

    Args:
        host: the name of the host.
        session: the connection.
        lease: the lock, held.
        context: shared by the hosts of the run.
        say: tells the operator about progress.
    """

    def __init__(self, host: str, session: Transport, lease: Lease, context: Context, say: Say) -> None:
        self.host = host
        self.session = session
        self.lease = lease
        self.context = context
        self.say = say
        self.journal = context.journal(host)
        """The journal of this run on the host."""

    def perform(self, change: Change, following: Sequence[Run], *, done: bool) -> Mapping[Run, Answer]:
        """Run the commands of a change and the reads that follow, in as few execs as possible.

        Args:
            change: the change.
            following: the commands to read afterwards.
            done: whether the lock can be given back in the same exec.

        Returns:
            the answers to `following`.

        Raises:
            HostError: a command failed.
        """
        batch: list[Run | Put] = [self.journal.before(change)]
        for command in change.commands:
            self.say("command", change.step.id, str(command))
            if isinstance(command, Run | Put) and _is_short(command):
                batch.append(command)
                continue
            if batch:
                self._batch(change, batch)
            self._long(change, command)
            batch = []
        batch.append(self.journal.done(change.step.id))
        ends = [self.journal.end(), self.lease.release()] if done else []
        answers = self._batch(change, batch, [*following, *ends])[len(batch) :]
        if done:
            self.lease.gave_back(answers[-1])
        return dict(zip(following, answers, strict=False))

    @property
    def _known(self) -> Host:
        """The host in the inventory."""
        return self.context.inventory.host(self.host)

    def closing(self, result: str, error: HostError | None) -> list[Run]:
        """Return the last commands of the journal; none if nothing was changed.

        Args:
            result: as in the recap.
            error: the failure with secrets masked, or None.
        """
        journal = self.journal
        if not journal.changes or (journal.ended and error is None):
            return []
        begun = error is not None and error.step in journal.changes
        failure = {"step": error.step, "exit": error.exit_status, "why": error.message[:LONGEST]} if error else None
        return [journal.end(result, failure if begun else None)]

    def _long(self, change: Change, command: Command) -> None:
        """Run a command that has its own exec."""
        if isinstance(command, Obtain):
            self._obtain(change, command)
        elif isinstance(command, Put):
            self.session.upload(io.BytesIO(command.content), command.path, command.mode, command.owner)
        else:
            self._job(change, command)

    def _batch(self, change: Change, commands: Sequence[Run | Put], after: Sequence[Run] = ()) -> list[Answer]:
        """Renew the lock and run short commands, in one exec. The first failed command is an error.

        Args:
            change: the change of the commands.
            commands: the commands.
            after: the reads afterwards. A read never fails the batch: parsers judge the exit codes of reads.
        """
        seconds = sum(command.timeout for command in commands if isinstance(command, Run))
        batch = [self.lease.acquire(seconds), *commands, *map(_never_failing, after)]
        answers = self.session.batch(batch, stop=True)
        self.lease.took(answers[0])
        number = first_failure(batch, answers)
        if number is not None:
            raise diagnostics.command_failed(change, batch[number], answers[number], self._known)
        return answers[1:]

    def _job(self, change: Change, run: Run) -> None:
        def show(line: str) -> None:
            text = run.progress(line) if run.progress else line.strip()
            if text:
                self.say("progress", change.step.id, text[:200])

        answer = self.session.job(run, show, self.context.stop.is_set)
        if not run.good(answer.exit):
            raise diagnostics.command_failed(change, run, answer, self._known)

    def _obtain(self, change: Change, wanted: Obtain) -> None:
        with self.context.store.single_flight(wanted.key, lambda: self._waiting(change, wanted)):
            path = self.context.store.find(wanted.key)
            if path is None and wanted.host in ("", self.host):
                self._make(change, wanted)
                return
        while path is None:
            self._waiting(change, wanted)
            time.sleep(0.5)
            path = self.context.store.find(wanted.key)
        with path.open("rb") as source:
            self.session.upload(source, wanted.path)

    def _waiting(self, change: Change, wanted: Obtain) -> None:
        """Report the wait while another host makes an artifact. Raises once the wait is in vain."""
        self.say("progress", change.step.id, f"waiting for {wanted}")
        if self.context.stop.is_set():
            raise Stopped("stopped while waiting", "run the command again to go on")
        if wanted.host and wanted.host not in self.context.working:
            became = "failed" if wanted.host in self.context.failed else "is not in this run, or had nothing to make"
            hint = f"repair {wanted.host}, include {wanted.host} in the run, or let another host make the artifact"
            raise HostError(f"{wanted}: only {wanted.host} may make the artifact, and {wanted.host} {became}", hint)

    def _make(self, change: Change, wanted: Obtain) -> None:
        for command in wanted.make:
            if isinstance(command, Run) and command.job:
                self._job(change, command)
            else:
                self._batch(change, [command])
        with self.context.store.adding(wanted.key) as path, path.open("wb") as target:
            self.session.download(wanted.path, target)


def _is_short(command: Run | Put) -> bool:
    """Whether a command can share an exec."""
    return not command.job if isinstance(command, Run) else len(command.content) <= INLINE


def _never_failing(run: Run) -> Run:
    """Return the same read with every exit code allowed: the parser judges the exit code, not the batch."""
    return dataclasses.replace(run, ok=())
