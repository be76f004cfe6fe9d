"""The caller of the command line: a person at a terminal, or a program that hands in hosts and answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from provision.runs.setup import Setup


@dataclass(frozen=True)
class Caller:
    """The caller of the command line.

    Args:
        setup: how hosts are reached and where runs keep files there; None for SSH and the usual folders.
        can_answer: whether somebody reads standard output and types on standard input.
        can_type: whether somebody types on standard input.
        confirm: asks a question, and returns whether the answer is yes; raises `click.Abort` at Ctrl-C.
    """

    setup: Setup | None = None
    can_answer: Callable[[], bool] = lambda: sys.stdin.isatty() and sys.stdout.isatty()
    can_type: Callable[[], bool] = lambda: sys.stdin.isatty()
    confirm: Callable[[str], bool] = click.confirm


def current() -> Caller:
    """Return the caller of the command that runs now."""
    return click.get_current_context().find_object(Caller) or Caller()
