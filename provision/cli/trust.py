"""`provision trust`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provision.cli.options import Screen, key_options

if TYPE_CHECKING:
    from provision.actions import Request


@click.command()
@key_options
@click.option("--replace", is_flag=True, help="Also where another key is known: the host was reinstalled.")
@click.option("-y", "--yes", is_flag=True, help="Write without asking: the fingerprints were compared elsewhere.")
def trust(request: Request, screen: Screen, replace: bool, yes: bool) -> int:
    """Show the hosts' key fingerprints, and write the keys to known_hosts once you have compared them.

    With --json the command asks nobody, and writes keys with --yes alone.
    """
    from provision.actions.trust import SeenKey, host_keys, write_keys
    from provision.errors import UsageError
    from provision.report import trust as report

    answers = host_keys(request)
    seen = [key for _, key in answers.hosts if isinstance(key, SeenKey)]
    new = [key for key in seen if key.state == "new" or (key.state == "changed" and replace)]
    refused = any(key.state == "changed" for key in seen) and not replace
    code = answers.exit_code or (4 if refused else 0)
    if screen.as_json:
        report.document(answers, write_keys(new if yes else (), replace=replace), code)
        return code
    report.keys_text(answers, replace=replace)
    if not new:
        return code
    if not (yes or screen.can_ask):
        raise UsageError("trust asks first, and there is no terminal", "compare the fingerprints, then say --yes")
    if not (yes or screen.caller.confirm("Are these the fingerprints that the hosts' own consoles show?")):
        raise click.Abort
    report.written_text(write_keys(new, replace=replace))
    return code
