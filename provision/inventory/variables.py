"""Ansible's connection variables, read with their types."""

from collections.abc import Callable, Mapping
from typing import Any

from provision.errors import Problem
from provision.inventory.near import did_you_mean
from provision.inventory.secret import Secret
from provision.inventory.value import Value

PREFIX = "ansible_"

HOST = ("ansible_host", "ansible_ssh_host")
PORT = ("ansible_port", "ansible_ssh_port")
USER = ("ansible_user", "ansible_ssh_user")
KEY = ("ansible_ssh_private_key_file", "ansible_private_key_file")
TIMEOUT = ("ansible_timeout", "ansible_ssh_timeout")
ARGUMENTS = ("ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args")
PASSWORD = ("ansible_password", "ansible_ssh_password", "ansible_ssh_pass")
BECOME = ("ansible_become",)
BECOME_USER = ("ansible_become_user",)
BECOME_METHOD = ("ansible_become_method",)
BECOME_PASSWORD = ("ansible_become_password", "ansible_become_pass")
CONNECTION = ("ansible_connection",)
PRIORITY = ("ansible_group_priority",)
TIMEOUT_FACTOR = ("timeout_factor",)
"""Our own: Ansible has no time limit for a task."""

KNOWN = frozenset(
    HOST + PORT + USER + KEY + TIMEOUT + ARGUMENTS + PASSWORD + BECOME + BECOME_USER + BECOME_METHOD
    + BECOME_PASSWORD + CONNECTION + PRIORITY
)  # fmt: skip
# Variables that tell Ansible how to run its own modules, without effect here.
_HARMLESS = ("python_interpreter", "shell_", "remote_tmp", "pipelining", "ssh_pipelining", "ssh_retries",
    "ssh_transfer_method", "scp_", "sftp_", "ssh_use_tty", "ssh_executable", "control_path")  # fmt: skip

_TRUE = frozenset({"yes", "true", "on", "1", "y"})
_FALSE = frozenset({"no", "false", "off", "0", "n"})


def strangers(variables: Mapping[str, Value]) -> dict[str, str]:
    """Return the `ansible_*` variables without a meaning here, each with the nearest known variable."""
    harmless = tuple(PREFIX + name for name in _HARMLESS)
    names = [name for name in variables if name.startswith(PREFIX) and not name.startswith(harmless)]
    return {name: did_you_mean(name, KNOWN) for name in names if name not in KNOWN}


class Reader:
    """Reads variables by any of their names.

    Args:
        variables: one host's merged variables.
        problems: collects every problem.
    """

    def __init__(self, variables: Mapping[str, Value], problems: list[Problem]) -> None:
        self._variables = variables
        self._problems = problems

    def find(self, names: tuple[str, ...]) -> Value | None:
        """Return the first of some variables that is present and not empty."""
        for name in names:
            value = self._variables.get(name)
            if value is not None and value.data not in (None, ""):
                return value
        return None

    def text(self, names: tuple[str, ...]) -> Value | None:
        """Return a variable whose data is text; a number is taken as written."""
        return self._read(names, _text, "must be text")

    def flag(self, names: tuple[str, ...]) -> bool | None:
        """Return a variable that is true or false, or None."""
        value = self._read(names, _flag, "must be true or false")
        return None if value is None else bool(value.data)

    def secret(self, names: tuple[str, ...]) -> Secret | None:
        """Return a secret variable, even if written as plain text."""
        value = self._read(names, _secret, "must be text, !env NAME or !file PATH")
        return None if value is None else Secret(value.data)

    def _read(self, names: tuple[str, ...], convert: Callable[[Value], Any], wanted: str) -> Value | None:
        value = self.find(names)
        if value is None:
            return None
        data = convert(value)
        if isinstance(data, str) and "{{" in data and convert is not _secret:
            self._problems.append(value.problem("holds a template; templates are not evaluated here"))
            return None
        if data is None:
            self._problems.append(value.problem(wanted))
            return None
        return Value(data, value.file, value.line, value.path, value.text)


def _text(value: Value) -> str | None:
    if isinstance(value.data, Secret):
        return value.data.reveal()
    return None if isinstance(value.data, dict | tuple | bool) else value.text


def _secret(value: Value) -> str | None:
    if isinstance(value.data, Secret):
        return value.data.reveal()
    return None if isinstance(value.data, dict | tuple) else value.text


def _flag(value: Value) -> bool | None:
    if isinstance(value.data, bool):
        return value.data
    word = value.text.lower()
    return True if word in _TRUE else False if word in _FALSE else None
