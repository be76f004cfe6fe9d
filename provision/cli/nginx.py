"""`provision nginx pin`."""

from __future__ import annotations

import click

from provision.cli.options import Group, answered, colour_option, inventory_option, json_option


@click.group(cls=Group)
def nginx() -> None:
    """Pin a version of nginx or a series of patches in the inventory."""


@nginx.command(short_help="Fetch a version or Debian's patches, verify the signature, write url and sha256.")
@click.argument("version", default="")
@inventory_option
@click.option("--debian-patches", is_flag=True, help="Pin Debian 13's patches of 1.26.3 in place of a VERSION.")
@click.option("--keys", default="", metavar="FILE", help="The keys that may sign; of Debian by default debian-keyring.")
@click.option("--url", default="", metavar="URL", help="A mirror's tarball, with its signature at URL.asc; or a .dsc.")
@click.option("--check", is_flag=True, help="Verify and show the change; write nothing.")
@colour_option
@json_option
def pin(version: str, inventory: str, debian_patches: bool, keys: str, url: str, check: bool, as_json: bool) -> int:
    """Fetch a VERSION of nginx, or Debian's patches, verify the signature, and write url and sha256 into the inventory.

    Needs the internet and gpg. No key is trusted by itself: you give the keys of nginx's makers as a file, with
    fingerprints that you compared. The keys of Debian's developers come with Debian's package debian-keyring.

    The edit keeps comments and layout. Nothing is written after a wrong signature, a wrong file or a timeout, or where
    a balancer would get other settings.
    """
    return answered("nginx pin", as_json, lambda: _pin(version, inventory, debian_patches, keys, url, check, as_json))


def _pin(version: str, inventory: str, debian: bool, keys: str, url: str, check: bool, as_json: bool) -> int:
    from provision.actions.nginx_pin import Wish
    from provision.actions.nginx_pin import pin as pinned
    from provision.errors import UsageError
    from provision.report import nginx_pin

    if bool(version) == debian:
        raise UsageError("pin a VERSION or --debian-patches, one of the two", "such as `provision nginx pin 1.30.7`")
    wish = Wish(inventory, version, keys, url, write=not check)
    nginx_pin.show(wish, pinned(wish), as_json=as_json)
    return 0
