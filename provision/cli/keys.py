"""`provision keys`: give out, list, rotate and revoke the keys of clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from provision.cli import caller as callers
from provision.cli.moments import moment, seconds
from provision.cli.options import Group, answered, colour_option, extra_vars_option, inventory_option, json_option

if TYPE_CHECKING:
    from provision.actions import Request

F = TypeVar("F", bound=Callable[..., int])

EXPIRES = click.option(
    "--expires",
    default="",
    metavar="WHEN",
    help="Refuse the key from then on: a date such as 2027-06-30 (UTC), or a duration such as 90d.  [default: never]",
)
NAME = click.argument("name")


def _options(command: F) -> F:
    words = "The file of clients, in place of balancer.clients."
    file = click.option("--clients", default="", type=click.Path(), metavar="FILE", help=words)
    for option in (json_option, colour_option, file, extra_vars_option, inventory_option):
        command = option(command)
    return command


@click.group(cls=Group)
def keys() -> None:
    """Give out, list, rotate and revoke the keys of the balancer's clients. The next deploy tells the balancers.

    The file of clients has the hashes of the keys. A key itself is shown once, and nobody can show the key again.
    """


def _split(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the values of an option that is repeated, or has values separated by commas."""
    return tuple(part.strip() for word in words for part in word.split(",") if part.strip())


@keys.command(short_help="Add a client, and print its key on standard output.")
@NAME
@click.option("--models", multiple=True, metavar="MODEL", help="Only these models; repeat, or separate by commas.")
@click.option("--concurrency", default=0, metavar="N", help="Requests at once on each balancer.  [default: no limit]")
@click.option("--rate", default=0, metavar="N", help="Requests in a minute on each balancer.  [default: no limit]")
@click.option(
    "--tokens-per-day", default=0, metavar="N", help="Tokens of a day (UTC) on each balancer.  [default: no limit]"
)
@click.option(
    "--networks",
    multiple=True,
    metavar="NETWORK",
    help="No key: admit these networks, such as 10.0.0.0/8; repeat, or separate by commas.",
)
@click.option("--pool", default="", metavar="LINE", help="Only the instances of this pool, which serve nobody else.")
@EXPIRES
@_options
def add(
    name: str,
    models: tuple[str, ...],
    concurrency: int,
    rate: int,
    tokens_per_day: int,
    networks: tuple[str, ...],
    pool: str,
    expires: str,
    inventory: str,
    extra_vars: tuple[str, ...],
    clients: str,
    as_json: bool,
) -> int:
    """Add the client NAME, and print its key. Standard output has the key alone, and no other output has the key.

    The key is shown this once. The balancers take the key after the next deploy.

    With --networks the client gets no key: requests from these networks need none. `keys rotate` makes a key for such a
    client too.
    """

    def work() -> int:
        from provision.actions import keys
        from provision.errors import UsageError
        from provision.inventory.client_file import Limits
        from provision.report import keys as report

        named = _split(models) if models else None
        limits = Limits(named, concurrency, rate, tokens_per_day, pool, _split(networks))
        request = _request(inventory, extra_vars)
        if networks and expires:
            hint = "leave --expires out; `provision keys rotate NAME --expires WHEN` makes a key for the client"
            raise UsageError("a client with --networks gets no key that could expire", hint)
        if networks:
            report.admitted(keys.admit(request, name, limits, file=clients), inventory, as_json=as_json)
            return 0
        made = keys.add(request, name, limits, expires=_expiry(expires, request), file=clients)
        report.new("keys add", made, inventory, as_json=as_json)
        return 0

    return answered("keys add", as_json, work)


@keys.command(short_help="Print a new key of a client; its old keys stay valid for a while.")
@NAME
@click.option(
    "--overlap", default="24h", show_default=True, metavar="DURATION", help="How long the old keys stay valid."
)
@EXPIRES
@_options
def rotate(
    name: str, overlap: str, expires: str, inventory: str, extra_vars: tuple[str, ...], clients: str, as_json: bool
) -> int:
    """Make a new key for the client NAME, and print the key, as `add` does. The old keys stay valid for --overlap.

    The overlap begins now, and the new key works after the next deploy.
    """

    def work() -> int:
        from provision.actions import keys
        from provision.report import keys as report

        request = _request(inventory, extra_vars)
        until, overlapping = _expiry(expires, request), seconds(overlap, "--overlap")
        made = keys.rotate(request, name, overlap=overlapping, expires=until, file=clients)
        report.new("keys rotate", made, inventory, as_json=as_json)
        return 0

    return answered("keys rotate", as_json, work)


@keys.command(short_help="Revoke all keys and networks of a client, or a single key.")
@click.argument("name", metavar="NAME|ID")
@_options
def revoke(name: str, inventory: str, extra_vars: tuple[str, ...], clients: str, as_json: bool) -> int:
    """Revoke all keys and networks of the client NAME, or the key with an ID of `keys list`.

    The next deploy tells the balancers. The ID of a key is the first 8 digits of its sha256.
    """

    def work() -> int:
        from provision.actions import keys
        from provision.report import keys as report

        done = keys.revoke(_request(inventory, extra_vars), name, file=clients)
        report.revoked(done, inventory, as_json=as_json)
        return 0

    return answered("keys revoke", as_json, work)


@keys.command("list", short_help="List clients with their limits, and keys with expiry and state.")
@_options
def list_(inventory: str, extra_vars: tuple[str, ...], clients: str, as_json: bool) -> int:
    """List the clients with their limits, and their keys by id, with expiry and state. No hash is shown in full."""

    def work() -> int:
        from provision.actions import keys
        from provision.report import keys as report

        report.listed(keys.listed(_request(inventory, extra_vars), file=clients), as_json=as_json)
        return 0

    return answered("keys list", as_json, work)


def _request(inventory: str, extra_vars: tuple[str, ...]) -> Request:
    from provision.actions import Request

    return Request(inventory, extra_vars=extra_vars, setup=callers.current().setup)


def _expiry(text: str, request: Request) -> int | None:
    from provision.actions.asking import setup_of

    return moment(text, "--expires", setup_of(request).clock(), ahead=True) if text else None
