"""The way to the host: SSH, and the rights of the user."""

import shlex
from collections.abc import Iterator

from provision.command import Answer, Run
from provision.doctor.check import Check, Subject, alone
from provision.doctor.finding import Finding, bad, good, ours
from provision.errors import HostError, HostKeyError, UnreachableError
from provision.inventory import Connection, Host, Inventory
from provision.steps.base import State, UnreadableError

SSH, SUDO = "ssh", "sudo"
WHO = Run(("id", "-u"), title="ask for the user")


def of_error(error: HostError, host: Host, inventory: Inventory) -> tuple[Finding, ...]:
    """Return the findings about a host that gave no answer at all.

    Args:
        error: of the connection, or of sudo.
        host: the host.
        inventory: the whole inventory.
    """
    evidence = "\n".join(filter(None, (error.hint, error.stderr)))
    if isinstance(error, HostKeyError):
        words = ("trust", "--replace") if "CHANGED" in error.message else ("trust",)
        return (_named(SSH, bad(error.message, ours(inventory, host, *words), evidence, here=True)),)
    if isinstance(error, UnreachableError):
        return (_named(SSH, bad(error.message, by_ssh(host.connection), evidence, here=True)),)
    return (
        _named(SSH, good(f"SSH logs in as {host.connection.user}")),
        _named(SUDO, _refused(error, host, inventory, evidence)),
    )


def _refused(error: HostError, host: Host, inventory: Inventory, evidence: str) -> Finding:
    user = host.connection.user
    if "password" in error.message:
        return bad(error.message, ours(inventory, host, "doctor", "-K"), evidence, here=True)
    if "not installed" in error.message:
        cure = f"apt-get install sudo && usermod -aG sudo {shlex.quote(user)}"
    else:
        cure = f"usermod -aG sudo {shlex.quote(user)}"
    return bad(error.message, cure, evidence)


def by_ssh(connection: Connection) -> str:
    """Return the command that shows the same trouble with OpenSSH.

    Args:
        connection: the way to the host.
    """
    jumps = ",".join(f"{jump.user}@{jump.address}:{jump.port}" for jump in connection.jumps)
    words = [*(("-J", jumps) if jumps else ()), *(word for key in connection.key_files for word in ("-i", key))]
    port = () if connection.port == 22 else ("-p", str(connection.port))
    return shlex.join(["ssh", "-v", *words, *port, f"{connection.user}@{connection.address}", "true"])


def _user(answer: Answer) -> State:
    if not answer.text.strip().isdigit():
        raise UnreadableError(answer.complaint or "id printed no number")
    return {"uid": int(answer.text)}


def _reached(state: State, subject: Subject) -> Iterator[Finding]:
    connection = subject.host.connection
    yield good(f"SSH logs in as {connection.user}", f"{connection.address}:{connection.port}")


def _root(state: State, subject: Subject) -> Iterator[Finding]:
    uid, connection = (state or {})["uid"], subject.host.connection
    if uid == 0:
        yield good("commands run as root" + (" by sudo" if connection.become else ""))
    else:
        cure = ours(subject.inventory, subject.host, "doctor", "-e", "ansible_become=true")
        says = f"commands run as {connection.user}, who is not root: set ansible_become"
        yield bad(says, cure, f"uid {uid}", here=True)


def _named(check: str, finding: Finding) -> Finding:
    return Finding(**{**vars(finding), "check": check})


CHECKS = (
    Check(SSH, lambda host, inventory: alone(WHO, _user), _reached),
    Check(SUDO, lambda host, inventory: alone(WHO, _user), _root),
)
