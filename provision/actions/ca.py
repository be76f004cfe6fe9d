"""The authority of one's own for balancers: make one, and renew the certificates of balancers, both on this machine."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from provision.inventory import Inventory

ALWAYS = 100_000  # days: no certificate lasts so long


@dataclass(frozen=True)
class Made:
    """A new authority.

    Args:
        certificate: path of its certificate.
        folder: its folder, as the inventory names the folder.
        fingerprint: sha256 of the certificate.
    """

    certificate: str
    folder: str
    fingerprint: str


@dataclass(frozen=True)
class Renewed:
    """A new certificate of a balancer.

    Args:
        host: name of the balancer.
        file: path of the certificate.
        end: the day of its end.
    """

    host: str
    file: str
    end: str


@dataclass(frozen=True)
class Renewal:
    """New certificates of balancers.

    Args:
        inventory: all hosts.
        hosts: every balancer with a new certificate.
    """

    inventory: Inventory
    hosts: Sequence[Renewed]


def init(inventory: str, folder: str, name: str) -> Made:
    """Make an authority in a folder beside the inventory.

    Args:
        inventory: path of the inventory, which need not exist yet.
        folder: the folder.
        name: common name of the authority's certificate; empty for a name by the time.

    Raises:
        UsageError: the folder has an authority, or cannot be written; or the name cannot be used.
    """
    from provision.certificates import authority, chain
    from provision.errors import UsageError
    from provision.inventory.paths import beside

    now = dt.datetime.now(dt.UTC)
    common = name or f"provision {now:%Y-%m-%d %H:%M}"
    longest = authority.LONGEST_NAME
    if not common.strip() or not common.isprintable() or len(common.encode()) > longest:
        raise UsageError(f"--name must be printable text of at most {longest} bytes in UTF-8: an umlaut has two")
    certificate = authority.make(beside(folder, inventory), common, now)
    made = authority.certificate_of(certificate.parent)
    return Made(str(certificate), folder, chain.fingerprint(made))


def renew(inventory: str, limit: Sequence[str] = (), overrides: Sequence[str] = ()) -> Renewal:
    """Issue a new certificate for each balancer with an authority of one's own, however long the old one lasts.

    Args:
        inventory: path of the inventory.
        limit: Ansible patterns that select balancers; empty for all.
        overrides: settings that win over the inventory.

    Raises:
        InventoryError: the inventory has problems, or the authority has.
        UsageError: no balancer gets a certificate, or a file cannot be written.
    """
    from provision.errors import UsageError
    from provision.inventory import shared_settings
    from provision.plan import local_files, role_interface

    loaded = role_interface.load(inventory, overrides, renew_within=ALWAYS)
    found = [(host.name, shared_settings.certificate(host)) for host in loaded.select(limit)]
    hindered = [known.hindered for _, known in found if known and known.hindered]
    if hindered:
        raise UsageError(f"nothing was renewed: {hindered[0]}")
    chosen = {name: known.end for name, known in found if known and known.is_new}
    if not chosen:
        raise UsageError(
            "no balancer here has a certificate of an authority of your own",
            "make one by `provision ca init`, and write balancer: {tls: {authority: ca}} into the inventory",
        )
    hosts = [
        Renewed(name, path, end)
        for name, end in chosen.items()
        for path in local_files.keep(loaded, {name}, role_interface.order())
    ]
    return Renewal(loaded, hosts)
