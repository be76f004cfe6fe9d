"""A command in the container of an instance, and a login on a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from provision.command import Run, Script, look
from provision.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from provision.actions.request import Request
    from provision.inventory import Host

SHOWN = 500  # characters of a hint that lists names

# $1 the container, then the words of the command. Standard input ends with the connection: then the client of Docker is
# ended, and no process of the exec stays on the host.
INSIDE = Script(
    "instance/exec",
    """
exec 3<&0
docker exec -- "$@" </dev/null 3<&- &
child=$!
{ cat <&3; kill "$child"; } >/dev/null 2>&1 &
watch=$!
wait "$child"
code=$?
kill "$watch" 2>/dev/null
exit "$code"
""",
)


def execute(
    request: Request,
    place: str,
    words: Sequence[str],
    on_out: Callable[[bytes], None],
    on_error: Callable[[bytes], None],
) -> int:
    """Run a command in the container of an instance, as `docker exec` does, and pass on its output.

    Args:
        request: has the inventory.
        place: `HOST/INSTANCE`.
        words: the program and its arguments; each reaches the program as given.
        on_out: called with every piece of standard output.
        on_error: called with every piece of standard error, from another thread.

    Returns:
        the exit code of the command.

    Raises:
        UsageError: there is no such instance.
        HostError: the host cannot be reached, or refuses.
    """
    from provision.actions.asking import setup_of
    from provision.inventory import Mask

    host, instance = _instance(request, place)
    transport = setup_of(request).transport(host.connection, request.become_password)
    try:
        return transport.follow(command(instance, words), on_out, on_error)
    except HostError as error:
        raise error.masked(Mask(host.secrets())) from error
    finally:
        transport.close()


def command(instance: str, words: Sequence[str]) -> Run:
    """Return the command that runs words in a container.

    Args:
        instance: name of the container.
        words: the program and its arguments.
    """
    return look(INSIDE, instance, *words, title=f"run a command in {instance}")


def login(request: Request, name: str, words: Sequence[str] = ()) -> list[str]:
    """Return the words of a login by the ssh of this machine, with the settings of the inventory. Connects to nothing.

    Args:
        request: has the inventory.
        name: name of the host.
        words: a command on the host; empty for a shell.

    Raises:
        UsageError: there is no such host, or ssh cannot be told its settings.
    """
    from provision.plan import role_interface
    from provision.ssh import openssh

    inventory = role_interface.load(request.inventory, request.overrides, served=False)
    return openssh.words(inventory.host(name).connection, words)


def _instance(request: Request, place: str) -> tuple[Host, str]:
    """Return the host and the name of an instance.

    Raises:
        UsageError: there is no such instance.
    """
    from provision.plan import role_interface

    name, slash, instance = place.partition("/")
    if not slash or not instance:
        raise UsageError(f"{place[:100]!r} is no instance", "give HOST/INSTANCE, as `provision status` shows instances")
    inventory = role_interface.load(request.inventory, request.overrides, served=False)
    host = inventory.host(name)
    names = [one.name for one in host.instances]
    if instance not in names:
        raise UsageError(
            f"{name} has no instance {instance}"[:SHOWN], f"{name} has {', '.join(names) or 'none'}"[:SHOWN]
        )
    return host, instance
