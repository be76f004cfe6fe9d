"""`provision trust`."""

import sys
from pathlib import Path

import click

from provision.cli.options import extra_vars_option, inventory_option, limit_option


@click.command()
@inventory_option
@limit_option
@extra_vars_option
@click.option("--replace", is_flag=True, help="Also where another key is known: the host was reinstalled.")
@click.option("-y", "--yes", is_flag=True, help="Write without asking: the fingerprints were compared elsewhere.")
def trust(inventory: str, limit: tuple[str, ...], extra_vars: tuple[str, ...], replace: bool, yes: bool) -> int:
    """Show the hosts' key fingerprints, and write them to known_hosts once you have compared them."""
    from provision.errors import HostError, UsageError
    from provision.plan import role_interface
    from provision.ssh import trust as known_keys

    code = 0
    new: dict[str, list[known_keys.Key]] = {}
    for host in role_interface.load(inventory, extra_vars).select(limit):
        try:
            key = known_keys.scan(host.connection)
        except HostError as error:
            click.echo(f"{host.name:20} UNREACHABLE  {error.message}", err=True)
            code = error.exit_code
            continue
        have = known_keys.known(host.connection)
        state = known_keys.state(key, have)
        click.echo(f"{host.name:20} {state:8} {key.kind:22} {key.fingerprint}")
        if state == "new" and have:
            click.echo(f"  of another type a key is known: {', '.join(one.kind for one in have)}", err=True)
        if state == "CHANGED" and not replace:
            click.echo("  another key is known for this host; --replace, if it was reinstalled", err=True)
            code = code or 4
        elif state != "known":
            new.setdefault(host.connection.known_hosts[0], []).append(key)
    if not new:
        return code
    if not yes and not sys.stdin.isatty():
        raise UsageError("without a terminal trust does not ask", "compare the fingerprints, then say --yes")
    if not yes:
        click.confirm("Are these the fingerprints that the hosts' own consoles show?", abort=True)
    for path, keys in new.items():
        known_keys.write(Path(path), keys, replace=replace)
        click.echo(f"{len(keys)} written to {path}")
    return code
