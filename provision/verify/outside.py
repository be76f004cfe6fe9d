"""Whether an instance is closed to the operator's machine, where every host of the inventory has access.

A fleet of a gpu host and a balancer has no neighbour without access. The operator's machine tries to connect to the
port then, if its SSH connection goes straight to the address of the instance: a jump host or a proxy proves nothing
about a plain connection, and a machine without a route to the address would count every port as closed.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from provision import command
from provision.command import Answer, Run
from provision.errors import HostError
from provision.verify.neighbours import AT_ONCE, PATIENCE, Place, Reply, Way

ASKER = "this machine"
CLOSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT})
Ends = tuple[str, str] | None
"""Addresses of this machine and of the host, of an SSH connection straight to the host."""


def knock(address: str, port: int) -> bool:
    """Return whether a connection from this machine succeeds. A refusal, and no answer for a while, is none.

    Args:
        address: IP address.
        port: TCP port.

    Raises:
        OSError: this machine could not try.
    """
    try:
        socket.create_connection((address, port), timeout=PATIENCE).close()
    except OSError as error:
        if isinstance(error, TimeoutError) or error.errno in CLOSED:
            return False
        raise
    return True


def ask(
    places: Sequence[Place], ends: Ends, run: Callable[[Run], Answer], knocks: Callable[[str, int], bool] = knock
) -> list[Reply]:
    """Try to reach the instances of a host from this machine.

    Args:
        places: the instances of the host.
        ends: see `Ends`.
        run: runs a command on the host.
        knocks: see `knock`.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda place: _safely(place, ends, run, knocks), places))


def _safely(place: Place, ends: Ends, run: Callable[[Run], Answer], knocks: Callable[[str, int], bool]) -> Reply:
    try:
        return _reply(place, ends, run, knocks)
    except Exception as error:  # noqa: BLE001 - the results of the host wait for every reply
        reason = error.message if isinstance(error, HostError) else repr(error)
        return Reply(place, ASKER, why=f"{ASKER} could not tell: {reason}", failed=True)


def _reply(place: Place, ends: Ends, run: Callable[[Run], Answer], knocks: Callable[[str, int], bool]) -> Reply:
    unasked = Reply(place, why="every host that was reached has access to the instance")
    if ends is None:
        return replace(unasked, why=f"{unasked.why}, and {ASKER} has no straight connection to {place.host}")
    mine, address = ends
    if place.admits(mine) or mine == address:
        return replace(unasked, why=f"{unasked.why}, and so has {ASKER} ({mine})")
    if address != place.address:
        return replace(unasked, why=f"{unasked.why}, and {ASKER} reaches {place.host} at {address} only")
    reply = Reply(place, f"{ASKER} ({mine})", knocks(address, place.port), way=Way(address, place.port))
    return _if_untranslated(reply, mine, run) if reply.reached else reply


def _if_untranslated(reply: Reply, mine: str, run: Callable[[Run], Answer]) -> Reply:
    """The reply, unless the host knows no connection from this machine's address: then the address was translated on
    the way, and the translated address may have access."""
    words = ("ss", "-Htn", "state", "established", "dst", mine)
    known = run(command.run(*words, title=f"list the connections of {ASKER}")).text.strip()
    why = f"{ASKER} has another address for {reply.place.host}, behind a router, and the address may have access"
    return reply if known else replace(reply, reached=None, why=why)
