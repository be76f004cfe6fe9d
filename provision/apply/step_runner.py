"""One change, carried out: short commands share an exec with what is read after them, long ones are jobs."""

import dataclasses
import io
import time
from collections.abc import Callable, Mapping, Sequence

from provision.apply import diagnostics
from provision.command import Answer, Command, Obtain, Put, Run
from provision.errors import HostError
from provision.plan.planner import Change
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.session import Session, first_failure

LONGEST = 500  # characters of an error that are written down
INLINE = 48 * 1024  # bytes of a file that ride in a script; larger ones have an exec of their own

Say = Callable[[str, str, str], None]
"""Is told what happens: kind, step, text."""


class Performer:
    """Carries out changes on one host.

    Args:
        host: its name.
        session: the connection.
        lease: the lock, held.
        context: what it shares with the other hosts.
        say: is told what happens.
    """

    def __init__(self, host: str, session: Session, lease: Lease, context: Context, say: Say) -> None:
        self.host = host
        self.session = session
        self.lease = lease
        self.context = context
        self.say = say
        self.journal = context.journal(host)
        """What is written on the host itself of what is done there."""

    def perform(self, change: Change, following: Sequence[Run], *, done: bool) -> Mapping[Run, Answer]:
        """Run a change's commands and what is to be read after them, in as few execs as they allow.

        Args:
            change: the change.
            following: what to read then.
            done: whether the lock can be given back then, in the same exec.

        Returns:
            what was read.

        Raises:
            HostError: a command failed.
        """
        batch: list[Run | Put] = [self.journal.before(change)]
        for command in change.commands:
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

    def closing(self, result: str, error: HostError | None) -> list[Run]:
        """What is left to write when the host is left; nothing where nothing was changed.

        Args:
            result: as the recap names it.
            error: what failed, with nothing secret in it; or None.
        """
        journal = self.journal
        if not journal.changes or (journal.ended and error is None):
            return []
        begun = error is not None and error.step in journal.changes
        said = {"step": error.step, "exit": error.exit_status, "why": error.message[:LONGEST]} if error else None
        return [journal.end(result, said if begun else None)]

    def _long(self, change: Change, command: Command) -> None:
        """Run a command that has an exec of its own."""
        if isinstance(command, Obtain):
            self._obtain(change, command)
        elif isinstance(command, Put):
            self.session.upload(io.BytesIO(command.content), command.path, command.mode, command.owner)
        else:
            self._job(change, command)

    def _batch(self, change: Change, commands: Sequence[Run | Put], after: Sequence[Run] = ()) -> list[Answer]:
        """Run short commands in one exec that renews the lock first; the first that fails is an error.

        Args:
            change: whose they are.
            commands: what to run.
            after: what to run then, whether it fails or not: parsers judge the exit codes of reads.
        """
        seconds = sum(command.timeout for command in commands if isinstance(command, Run))
        batch = [self.lease.acquire(seconds), *commands, *map(_never_failing, after)]
        answers = self.session.batch(batch, stop=True)
        self.lease.took(answers[0])
        number = first_failure(batch, answers)
        if number is not None:
            raise diagnostics.command_failed(change, batch[number], answers[number])
        return answers[1:]

    def _job(self, change: Change, run: Run) -> None:
        def show(line: str) -> None:
            text = run.progress(line) if run.progress else line.strip()
            if text:
                self.say("progress", change.step.id, text[:200])

        answer = self.session.job(run, show, self.context.stop.is_set)
        if not run.good(answer.exit):
            raise diagnostics.command_failed(change, run, answer)

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
        """Called while another host makes an artifact; raises when there is nothing to wait for."""
        self.say("progress", change.step.id, f"waiting for {wanted}")
        if self.context.stop.is_set():
            raise Stopped("stopped while waiting", "run it again to go on")
        if wanted.host and wanted.host not in self.context.working:
            became = "failed" if wanted.host in self.context.failed else "is not in this run, or had nothing to make"
            hint = f"see to {wanted.host}, run with it, or let another host make it"
            raise HostError(f"{wanted}: only {wanted.host} may make it, and it {became}", hint)

    def _make(self, change: Change, wanted: Obtain) -> None:
        for command in wanted.make:
            if isinstance(command, Run) and command.job:
                self._job(change, command)
            else:
                self._batch(change, [command])
        with self.context.store.adding(wanted.key) as path, path.open("wb") as target:
            self.session.download(wanted.path, target)


def _is_short(command: Run | Put) -> bool:
    """Whether it can share an exec with others."""
    return not command.job if isinstance(command, Run) else len(command.content) <= INLINE


def _never_failing(run: Run) -> Run:
    """The same read, for a batch that stops at a failure: its parser judges the exit code, not the batch."""
    return dataclasses.replace(run, ok=())
