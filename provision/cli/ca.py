"""`provision ca`: an authority of one's own for the certificates of balancers."""

from __future__ import annotations

import click

from provision.cli.options import (
    Group,
    answered,
    colour_option,
    extra_vars_option,
    inventory_option,
    json_option,
    limit_option,
)


@click.group(cls=Group)
def ca() -> None:
    """Make an authority of your own for TLS on balancers, and renew their certificates. Reaches no host."""


@ca.command(short_help="Make an authority in a folder beside the inventory; never over another.")
@inventory_option
@click.option("--folder", default="ca", show_default=True, metavar="FOLDER", help="Its folder, beside the inventory.")
@click.option("--name", default="", metavar="NAME", help="Name of the authority.  [default: provision, and the time]")
@colour_option
@json_option
def init(inventory: str, folder: str, name: str, as_json: bool) -> int:
    """Make an authority: a key (mode 0600) and a certificate of ten years, in a folder beside the inventory.

    Whoever has the key can pretend to be any server to your clients: keep a copy where you keep secrets. A .gitignore
    in the folder keeps keys out of a repository. Nothing overwrites an authority.
    """
    return answered("ca init", as_json, lambda: _init(inventory, folder, name, as_json=as_json))


def _init(inventory: str, folder: str, name: str, *, as_json: bool) -> int:
    from provision.actions.ca import init as make
    from provision.report import ca as report

    report.made(make(inventory, folder, name), as_json=as_json)
    return 0


@ca.command(short_help="Issue new certificates for balancers; a deploy brings them to the hosts.")
@inventory_option
@limit_option
@extra_vars_option
@colour_option
@json_option
def renew(inventory: str, limit: tuple[str, ...], extra_vars: tuple[str, ...], as_json: bool) -> int:
    """Issue new certificates of 90 days for balancers with `balancer.tls.authority`; a deploy brings them to the hosts.

    A deploy itself renews certificates with less than 30 days left: renew by hand where somebody may know a key.
    """
    return answered("ca renew", as_json, lambda: _renew(inventory, limit, extra_vars, as_json=as_json))


def _renew(inventory: str, limit: tuple[str, ...], extra_vars: tuple[str, ...], *, as_json: bool) -> int:
    from provision.actions.ca import renew as renewed
    from provision.report import ca as report

    report.renewed(renewed(inventory, limit, extra_vars), inventory, as_json=as_json)
    return 0
