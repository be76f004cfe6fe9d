"""Prints keys of clients. A new key goes to standard output alone, and everything about the key to standard error."""

import datetime as dt
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from provision.actions.keys import Admitted, Listed, NewKey, Revoked
from provision.inventory.client_file import Limits, StoredKey
from provision.report import console, layout
from provision.report.console import say, say_command
from provision.report.layout import count, paint
from provision.terminal_text import line

SHOWN = 8  # models or networks of a client in a line


def new(command: str, made: NewKey, inventory: str, *, as_json: bool) -> None:
    """Print a new key, or the JSON document with the key.

    Args:
        command: `keys add` or `keys rotate`.
        made: the key.
        inventory: path of the inventory.
        as_json: whether the document is wanted.
    """
    if as_json:
        console.document(
            command,
            0,
            made.remarks,
            client=made.stored.client,
            key=made.key.reveal(),
            id=made.stored.id,
            expires=time_of(made.stored.expires),
            old=[{"id": key.id, "expires": time_of(key.expires)} for key in made.old],
            networks=list(made.networks),
            file=str(made.file),
            next=_deploy(inventory),
        )
        return
    for remark in made.remarks:
        console.warn(remark)
    print(made.key.reveal(), flush=True)
    until = f"expires {words_of(made.stored.expires)}" if made.stored.expires else "never expires"
    _remark(
        f"key {made.stored.id} of {made.stored.client}, {until}: shown this once, and stored as a hash in {made.file}"
    )
    for key in made.old:
        _remark(f"old key {key.id} stays valid until {words_of(key.expires)}")
    _remark(f"the balancers take the key after: {_deploy(inventory)}")


def admitted(made: Admitted, inventory: str, *, as_json: bool) -> None:
    """Print a new client without a key, or the JSON document.

    Args:
        made: the client.
        inventory: path of the inventory.
        as_json: whether the document is wanted.
    """
    if as_json:
        none: dict[str, Any] = {"key": None, "id": None, "expires": None, "old": []}
        told = {"networks": list(made.networks), "file": str(made.file), "next": _deploy(inventory)}
        console.document("keys add", 0, made.remarks, client=made.client, **none, **told)
        return
    for remark in made.remarks:
        console.warn(remark)
    say(f"{made.client} needs no key in {_networks(made.networks)}, and has none")
    say_command("the balancers admit these networks after", _deploy(inventory))


def revoked(done: Revoked, inventory: str, *, as_json: bool) -> None:
    """Print revoked keys, or the JSON document.

    Args:
        done: the revoked keys.
        inventory: path of the inventory.
        as_json: whether the document is wanted.
    """
    if as_json:
        gone = [{"client": key.client, "id": key.id} for key in done.keys]
        left = [{"client": key.client, "id": key.id} for key in done.left]
        file = str(done.file)
        told = {"networks": list(done.networks), "file": file, "next": _deploy(inventory)}
        console.document("keys revoke", 0, (), revoked=gone, left=left, **told)
        return
    for key in done.keys:
        say(f"key {key.id} of {key.client} is revoked")
    for key in done.left:
        say(f"key {key.id} of {key.client} stays valid")
    if done.networks:
        say(f"clients in {_networks(done.networks)} need a key")
    what = "revoked keys" if done.keys else "requests without a key from there"
    say_command(f"the balancers refuse {what} after", _deploy(inventory))


def listed(found: Listed, *, as_json: bool) -> None:
    """Print the clients and their keys, or the JSON document.

    Args:
        found: the clients and keys.
        as_json: whether the document is wanted.
    """
    if as_json:
        body = [_client(found, name, limits) for name, limits in found.clients.clients.items()]
        console.document("keys list", 0, (), file=str(found.file), clients=body)
        return
    if not found.clients.clients:
        say(f"{line(found.file)} has no clients: `provision keys add NAME` adds a client")
        return
    for name, limits in found.clients.clients.items():
        say(f"{paint(name, 'bold')}  {'; '.join(_limits(limits))}", hang=2)
        for key in found.keys(name):
            say(f"  {key.id}  made {words_of(key.made)}  {_state(found, key)}", hang=12)
    keys, clients = count(len(found.clients.keys), "key"), count(len(found.clients.clients), "client")
    say(f"{keys} of {clients} in {line(found.file)}; the balancers know a change after `provision deploy`")


def _limits(limits: Limits) -> Iterator[str]:
    models = limits.models
    if models is None:
        yield "all models"
    else:
        yield f"models {layout.names(models, most=SHOWN)}" if models else "no model"
    for number, words in (
        (limits.concurrency, "at once"),
        (limits.rate, "a minute"),
        (limits.tokens_per_day, "tokens a day"),
    ):
        if number:
            yield f"{number} {words}"
    if limits.pool:
        yield f"pool {limits.pool}"
    if limits.networks:
        yield f"no key in {_networks(limits.networks)}"


def _networks(networks: Sequence[str]) -> str:
    return layout.names(networks, most=SHOWN)


def _state(found: Listed, key: StoredKey) -> str:
    match found.state(key):
        case "revoked":
            return paint(f"revoked {words_of(key.revoked)}", "red")
        case "expired":
            return paint(f"expired {words_of(key.expires)}", "yellow")
        case "old":
            until = f"valid until {words_of(key.expires)}" if key.expires else "still valid"
            return paint(f"old, {until}", "yellow")
    return f"valid until {words_of(key.expires)}" if key.expires else "valid"


def _client(found: Listed, name: str, limits: Limits) -> dict[str, Any]:
    keys = [
        {
            "id": key.id,
            "state": found.state(key),
            "made": time_of(key.made),
            "expires": time_of(key.expires),
            "revoked": time_of(key.revoked),
        }
        for key in found.keys(name)
    ]
    return {
        "client": name,
        "models": None if limits.models is None else list(limits.models),
        "concurrency": limits.concurrency,
        "rate": limits.rate,
        "tokens_per_day": limits.tokens_per_day,
        "pool": limits.pool,
        "networks": list(limits.networks),
        "keys": keys,
    }


def time_of(seconds: int | None) -> str | None:
    """Return a moment as the documents have times; None stays None.

    Args:
        seconds: since 1970.
    """
    if seconds is None:
        return None
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # a year that no calendar here has
        return f"{seconds} seconds after 1970"


def words_of(seconds: int | None) -> str:
    """Return a moment for people, in UTC, to the minute.

    Args:
        seconds: since 1970; None for never.
    """
    moment = time_of(seconds)
    if moment is None:
        return "never"
    return f"{moment[:10]} {moment[11:16]} UTC" if moment.endswith("Z") else moment


def _deploy(inventory: str) -> str:
    return shlex.join(["provision", "deploy", "-i", inventory])


def _remark(text: str) -> None:
    print("\n".join(layout.wrap(line(text, 1000), 2, layout.width(sys.stderr))), file=sys.stderr, flush=True)
