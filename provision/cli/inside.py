"""`provision exec` and `provision ssh`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, place_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command("exec")
@place_options
@click.argument("place", metavar="HOST/INSTANCE")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="-- WORD...")
def exec_(request: Request, screen: Screen, place: str, words: tuple[str, ...]) -> int:
    """Run a command in the container of an instance, such as: provision exec gpu-01/ollama1 -- ollama ps

    Each word reaches the program as typed, without another shell. The exit code is the exit code of the program. The
    program has no standard input. Ctrl-C ends the connection and the client of Docker; a program that ignores the loss
    of its output goes on in the container.
    """
    from provision.actions import inside
    from provision.report.passed import Passed

    if not words:
        raise click.UsageError("give a command after --, such as: -- nvidia-smi -L")
    out, err = Passed(sys.stdout), Passed(sys.stderr)
    try:
        return inside.execute(request, place, words, out, err)
    finally:
        out.end()
        err.end()


@click.command()
@place_options
@click.argument("host", metavar="HOST")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- WORD...]")
def ssh(request: Request, screen: Screen, host: str, words: tuple[str, ...]) -> int:
    """Log in to a host by the ssh of this machine, with user, key, jump hosts and known_hosts of the inventory.

    A host key that is not known is refused, as by every other command: `provision trust` shows and writes host keys. No
    password of the inventory is handed on: ssh asks for a password itself. The login is the user's, without sudo. With
    words, ssh runs the command and ends.
    """
    from provision.actions import inside

    return screen.caller.become(inside.login(request, host, words))
