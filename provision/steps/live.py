"""Questions to a host in a verification, each asked once for all checks."""

from collections.abc import Mapping
from typing import Any

from provision.command import Answer, Run


def asked_once(live: Any, command: str, *args: str) -> Any:
    """Ask a question of several steps' checks once in a verification.

    Only for reads whose answer no check of the same verification changes. A question after a check has acted, or a
    question that is to see a change, goes through `live.run`.

    Args:
        live: testinfra's host.
        command: the command of testinfra's `run`.
        args: its arguments.
    """
    ask = getattr(getattr(live, "backend", None), "run_once", live.run)
    return ask(command, *args)


def read_once(live: Any, command: Run) -> Answer:
    """The answer to a fact's command, from the read of verify's own plan; else the host is asked now, once.

    Args:
        live: testinfra's host.
        command: command of a fact: a script on standard input, with its arguments behind `sh -s --`.
    """
    known: Mapping[Run, Answer] = getattr(getattr(live, "backend", None), "known", {})
    if command in known:
        return known[command]
    words = command.words[3:]
    result = asked_once(live, "sh -c %s sh" + " %s" * len(words), command.stdin.decode(), *words)
    return Answer(result.rc, result.stdout.encode(), result.stderr.encode())
