"""The caller of the command line: a person at a terminal, or a program that hands in hosts and answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from provision.runs.setup import Setup


def become(words: Sequence[str]) -> int:
    """Become another program.

    Args:
        words: the program and its arguments.

    Raises:
        UsageError: there is no such program.
    """
    from provision.errors import UsageError

    sys.stdout.flush()
    try:
        os.execvp(words[0], list(words))  # noqa: S606 - no shell: each word reaches the program as given
    except OSError as error:
        hint = f"install {words[0]} on this machine, such as by `apt install openssh-client`"
        raise UsageError(f"{words[0]} cannot be started: {error.strerror}", hint) from error


@dataclass(frozen=True)
class Caller:
    """The caller of the command line.

    Args:
        setup: how hosts are reached and where runs keep files there; None for SSH and the usual folders.
        can_answer: whether somebody reads standard output and types on standard input.
        can_type: whether somebody types on standard input.
        confirm: asks a question, and returns whether the answer is yes; raises `click.Abort` at Ctrl-C.
        become: becomes another program; returns the exit code of a program that a test runs in its place.
    """

    setup: Setup | None = None
    can_answer: Callable[[], bool] = lambda: sys.stdin.isatty() and sys.stdout.isatty()
    can_type: Callable[[], bool] = lambda: sys.stdin.isatty()
    confirm: Callable[[str], bool] = click.confirm
    become: Callable[[Sequence[str]], int] = become


def current() -> Caller:
    """Return the caller of the command that runs now."""
    return click.get_current_context().find_object(Caller) or Caller()
