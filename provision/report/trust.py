"""Prints the keys of hosts and the keys written by `provision trust`."""

import sys
from collections.abc import Mapping
from typing import Any

from provision.actions.results import Answers
from provision.actions.trust import SeenKey
from provision.errors import HostError
from provision.inventory import Host
from provision.report import console, layout
from provision.report.console import say
from provision.terminal_text import line


def keys_text(answers: Answers[SeenKey], *, replace: bool) -> None:
    """Print each host's fingerprint, with a remark about a changed key.

    Args:
        answers: of every host.
        replace: whether changed keys are to be replaced.
    """
    width = max((len(host.name) for host, _ in answers.hosts), default=4)
    for host, seen in answers.hosts:
        if isinstance(seen, HostError):
            _remark(f"{host.name:{width}}  {console.result_of(seen).upper()}  {line(seen.message, 1000)}", width + 2)
            continue
        state = seen.state.upper() if seen.state == "changed" else seen.state
        say(f"{host.name:{width}}  {state:7}  {line(seen.key.kind):22} {seen.key.fingerprint}", hang=width + 2)
        if seen.state == "new" and seen.others:
            _remark(f"  known_hosts has keys of other types for {host.name}: {', '.join(map(line, seen.others))}")
        if seen.state == "changed" and not replace:
            _remark(f"  known_hosts has another key for {host.name}; if the host was reinstalled, say --replace")


def written_text(written: Mapping[str, int]) -> None:
    """Print how many keys each file got."""
    for path, count in written.items():
        say(f"{count} written to {line(path, 400)}")


def document(answers: Answers[SeenKey], written: Mapping[str, int], exit_code: int) -> None:
    """Print the JSON document.

    Args:
        answers: of every host.
        written: file -> how many keys it got.
        exit_code: of the command.
    """
    hosts = [_host(host, seen) for host, seen in answers.hosts]
    files = [{"file": path, "keys": count} for path, count in written.items()]
    console.document("trust", exit_code, answers.inventory.warnings, hosts=hosts, written=files)


def _host(host: Host, seen: SeenKey | HostError) -> dict[str, Any]:
    if isinstance(seen, HostError):
        return {"host": host.name, "result": console.result_of(seen), "why": seen.message, "key": None}
    key = {"name": seen.key.name, "type": seen.key.kind, "fingerprint": seen.key.fingerprint, "file": seen.file}
    return {"host": host.name, "result": seen.state, "why": "", "key": key}


def _remark(text: str, hang: int = 4) -> None:
    print("\n".join(layout.wrap(text, hang, layout.width(sys.stderr))), file=sys.stderr, flush=True)
