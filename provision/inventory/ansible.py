"""Reads inventories that are not YAML, an INI file or a program, by `ansible-inventory`."""

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import time
from pathlib import Path

from provision.errors import Problem
from provision.inventory.document import MAX_BYTES, parse
from provision.inventory.value import Value, unlined

PROGRAM = "ansible-inventory"
SECONDS = 60.0
# The loader reads group_vars and host_vars itself: their `!env` and `!file` are not Ansible's.
_ENVIRONMENT = {"ANSIBLE_VARS_ENABLED": "none", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true", "ANSIBLE_NOCOLOR": "1"}
_PROGRAMS = (b"#!", b"\x7fELF")


class _NoAnswerError(Exception):
    """`ansible-inventory` gave no usable answer; the text has the reason."""


def is_installed() -> bool:
    """Whether `ansible-inventory` is on PATH."""
    return shutil.which(PROGRAM) is not None


def is_program(path: Path) -> bool:
    """Whether a file is a program that prints an inventory."""
    try:
        with path.open("rb") as file:
            return file.read(4).startswith(_PROGRAMS) and os.access(path, os.X_OK)
    except (OSError, ValueError):
        return False


def read(path: Path, problems: list[Problem], seconds: float = SECONDS) -> Value | None:
    """Have `ansible-inventory` read an inventory.

    Args:
        path: the INI file or the program. `ansible-inventory` starts the program, as every command of Ansible does.
        problems: collects every problem.
        seconds: timeout of the answer.

    Returns:
        the inventory as a YAML document, without line numbers; None without an answer.
    """
    try:
        text = _answer(path, seconds)
    except _NoAnswerError as error:
        hint = f"`{PROGRAM} -i {path} --list` shows what is wrong"
        problems.append(Problem(str(path), 0, "", f"{PROGRAM} {error}; {hint}"))
        return None
    reported: list[Problem] = []
    root = parse(text, str(path), reported)
    output = f"in the output of {PROGRAM}"
    problems += [Problem(each.file, 0, each.path, f"{output}: {each.message}") for each in reported]
    return root and unlined(root)


def _answer(path: Path, seconds: float) -> str:
    """Return the output of `ansible-inventory`.

    Raises:
        _NoAnswerError: the program does not start, fails, takes too long, or prints too much.
    """
    words = [PROGRAM, f"--inventory={path.absolute()}", "--list", "--yaml", "--export"]
    deadline = time.monotonic() + seconds
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # may quote a password of the inventory
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,
        )
    except OSError as error:
        raise _NoAnswerError(f"cannot be started: {error.strerror}") from None
    try:
        data = _read(process, deadline)
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired):
        raise _NoAnswerError(f"has not ended after {seconds:g} s") from None
    finally:
        _end(process)
    if code:
        raise _NoAnswerError(f"ended with exit code {code}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise _NoAnswerError("printed something else than UTF-8 text") from None


def _read(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """Read the output of a process to its end.

    Raises:
        TimeoutError: the output has not ended by the deadline.
        _NoAnswerError: the output is larger than an inventory may be.
    """
    data = bytearray()
    with selectors.DefaultSelector() as selector:
        assert process.stdout is not None  # noqa: S101 - narrows the type
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 2**16)
            data += chunk
            if not chunk:
                return bytes(data)
            if len(data) > MAX_BYTES:
                raise _NoAnswerError(f"printed more than {MAX_BYTES // 2**20} MiB")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all its children, unless all have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        process.wait(5)
    if process.stdout is not None:
        process.stdout.close()
