"""Prints the results of `provision ca`."""

from provision.actions.ca import Made, Renewal
from provision.report import console
from provision.report.console import say, say_command
from provision.terminal_text import line


def made(result: Made, *, as_json: bool) -> None:
    """Print a new authority, or its JSON document.

    Args:
        result: the authority.
        as_json: whether the document is wanted.
    """
    if as_json:
        console.document("ca init", 0, (), certificate=result.certificate, sha256=result.fingerprint)
        return
    say(f"made {line(result.certificate, 400)}: give this file to clients, for them to trust")
    say(f"  sha256 {result.fingerprint}", hang=4)
    say("keep a copy of ca.key beside it where you keep secrets: nobody can make the key again")
    say(f"next: write balancer: {{tls: {{authority: {line(result.folder, 400)}}}}} into the inventory")
    say_command("then", "provision plan --tags balancer")


def renewed(result: Renewal, inventory: str, *, as_json: bool) -> None:
    """Print new certificates of balancers, or their JSON document.

    Args:
        result: the certificates.
        inventory: path of the inventory, for the next command.
        as_json: whether the document is wanted.
    """
    if as_json:
        hosts = [{"host": each.host, "certificate": each.file, "end": each.end} for each in result.hosts]
        console.document("ca renew", 0, result.inventory.warnings, hosts=hosts)
        return
    for warning in result.inventory.warnings:
        console.warn(warning)
    width = max(len(each.host) for each in result.hosts)
    for each in result.hosts:
        say(f"{each.host:{width}}  until {each.end}  {line(each.file, 400)}", hang=width + 2)
    say_command("next", f"provision deploy -i {inventory} --tags balancer")
