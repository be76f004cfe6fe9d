"""Errors and their exit codes (`provision --help` lists the codes).

    ProvisionError                 1  our own fault
      UsageError                   2  the command line asks for something that does not exist
      InventoryError               2  the inventory cannot be used: every problem, with file and line
      GuardError                   7  stopped before doing harm
      HostError                    3  a host failed
        UnreachableError           4  no connection, or a lost connection
          HostKeyError             4  the host's key is unknown or has changed
        RefusedError               3  the host is not as the inventory says, or a thing on the host is not ours
          UnfitError               7  a model does not fit its cards, or the things of a plan do not fit a disk
        FactError                  3  an answer could not be read
        CommandError               3  a command failed: its words, exit code and stderr
        NotConvergedError          3  every command ran, and the host still differs
        LockedError                6  somebody else is changing the host
        BugError                   1  our own fault, during work on a host

An exception of any other class is a bug, and the command line says so.
"""

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self


class ProvisionError(Exception):
    """Base of every exception that this program raises on purpose.

    Args:
        message: the failure, in one sentence.
        hint: the next action, in one sentence; may be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(ProvisionError):
    """The command line asks for something that does not exist."""

    exit_code = 2


@dataclass(frozen=True, order=True)
class Problem:
    """One problem of an inventory.

    Args:
        file: path of the file, as given.
        line: line in the file, from 1; 0 if unknown.
        path: dotted path of the key, such as `all.children.gpu.hosts.gpu-01.ollama.image`.
        message: the problem and, where known, the nearest valid name.
    """

    file: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.path}: {self.message}" if self.path else f"{where}: {self.message}"


class InventoryError(ProvisionError):
    """The inventory cannot be used. Holds every problem, not only the first.

    Args:
        problems: every problem.
        warnings: further oddities, such as a misspelt role.
    """

    exit_code = 2

    def __init__(self, problems: list[Problem], warnings: Iterable[str] = ()) -> None:
        self.problems = sorted(set(problems))
        self.warnings = tuple(dict.fromkeys(warnings))
        super().__init__("\n".join(str(problem) for problem in self.problems))


class GuardError(ProvisionError):
    """A guard stopped the run."""

    exit_code = 7


class HostError(ProvisionError):
    """A host failed.

    Args:
        message: the failure, in one sentence.
        hint: the next action.
        step: id of the step, or empty.
        command: the command, as shown to people (secrets masked), or empty.
        exit_status: the command's exit code, or None if no command ran.
        stderr: the evidence.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        step: str = "",
        command: str = "",
        exit_status: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message, hint)
        self.step = step
        self.command = command
        self.exit_status = exit_status
        self.stderr = stderr
        self.previous: tuple[str, ...] = ()
        """Names of the stopped containers that a rollback of this run starts again."""

    def masked(self, hide: Callable[[str], str]) -> Self:
        """Mask secrets in everything shown of this error, and return the error.

        Args:
            hide: masks secrets in a text, such as `inventory.Mask`.
        """
        self.message, self.hint = hide(self.message), hide(self.hint)
        self.command, self.stderr = hide(self.command), hide(self.stderr)
        return self


class UnreachableError(HostError):
    """There is no connection, or the connection was lost."""

    exit_code = 4


class HostKeyError(UnreachableError):
    """The host's key is unknown, or has changed."""


class RefusedError(HostError):
    """The host is not as the inventory says, or something on the host belongs to somebody else."""


class UnfitError(RefusedError):
    """A model does not fit the memory of its cards by an estimate, or a disk has too little room."""

    exit_code = 7


class FactError(HostError):
    """An answer of the host could not be read: neither a state nor a proof of absence."""


class CommandError(HostError):
    """A command of a step failed."""


class NotConvergedError(HostError):
    """Every command succeeded, and the host still differs from the wanted state."""


class LockedError(HostError):
    """Another run or an operator has the host's lock.

    Args:
        message: the holder.
        hint: the next action.
        run: id of the run with the lock; empty for a lock by hand.
    """

    exit_code = 6

    def __init__(self, message: str, hint: str = "", *, run: str = "") -> None:
        super().__init__(message, hint)
        self.run = run


class BugError(HostError):
    """An unforeseen exception during work on a host. Work on other hosts goes on.

    Args:
        error: the exception.
    """

    exit_code = 1

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"a bug of provision: {type(error).__name__}: {error}"[:1000], REPORT, stderr=where(error))


REPORT = "report it, please, with this text"


def where(error: BaseException) -> str:
    """Return the innermost places of an exception, one a line."""
    return "\n".join(
        f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in traceback.extract_tb(error.__traceback__)[-4:]
    )
