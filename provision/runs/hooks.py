"""Hooks, programs of the operator around a deploy, rollback, drain, undrain or switch: `hooks/` beside the inventory.

    hooks/pre-deploy    before any change; a failure stops the run
    hooks/post-deploy   after a run in which every host succeeded
    hooks/on-failure    after any other run

A hook gets a JSON document on standard input. The environment has the command (`PROVISION_COMMAND`: `deploy`,
`rollback`, `drain`, `undrain` or `switch`), the hook (`PROVISION_EVENT`), and the id of the run (`PROVISION_RUN`);
the document has the same values as `command`, `event` and `run`. The output of a hook goes to our standard error.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from provision.errors import GuardError, UsageError

FOLDER = "hooks"
PRE, POST, FAILURE = "pre-deploy", "post-deploy", "on-failure"
TIMEOUT = 600.0  # seconds


class Hooks:
    """The hooks of an inventory.

    Args:
        inventory: path of the inventory file.
        run_id: id of the run, given to each hook as PROVISION_RUN.
        command: the command, given to each hook as PROVISION_COMMAND.
    """

    def __init__(self, inventory: str, run_id: str, command: str) -> None:
        self._folder = Path(inventory).resolve().parent / FOLDER
        self._run_id = run_id
        self._command = command

    def before(self, document: Mapping[str, Any]) -> None:
        """Run pre-deploy.

        Raises:
            GuardError: the hook failed, so the run must not begin.
            UsageError: the hook must not be run.
        """
        problem = self._call(PRE, document)
        if problem:
            raise GuardError(f"{PRE} {problem}: nothing was touched", "read the output of the hook above")

    def after(self, document: Mapping[str, Any], *, failed: bool) -> str:
        """Run post-deploy or on-failure. A failed hook does not change the result of the run.

        Returns:
            the failure of the hook, or an empty text.
        """
        name = FAILURE if failed else POST
        try:
            problem = self._call(name, document)
        except UsageError as error:
            return error.message
        return f"{name} {problem}" if problem else ""

    def check(self) -> None:
        """Check all hooks before anything is done.

        Raises:
            UsageError: a hook must not be run.
        """
        for name in (PRE, POST, FAILURE):
            self._program(name)

    def _program(self, name: str) -> Path | None:
        """Return the program of a hook, or None if absent.

        Raises:
            UsageError: the program cannot be run, or somebody else could have written it.
        """
        path = self._folder / name
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{path} cannot be looked at: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
            raise UsageError(f"{path} is no program", f"chmod +x {path}, or remove the file")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(f"{path} can be written by others than you", f"chmod go-w {path}")
        return path

    def _call(self, name: str, document: Mapping[str, Any]) -> str:
        """Run a hook if present, and return its failure, or an empty text."""
        path = self._program(name)
        if path is None:
            return ""
        head = {"schema": 1, "event": name, "run": self._run_id, "command": self._command}
        text = json.dumps({**head, **document}, default=str).encode()
        names = {"PROVISION_RUN": self._run_id, "PROVISION_EVENT": name, "PROVISION_COMMAND": self._command}
        env = {**os.environ, **names}
        try:
            done = subprocess.run(
                [str(path)],
                input=text,
                stdout=_standard_error(),
                cwd=self._folder.parent,
                env=env,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"did not end within {TIMEOUT:.0f} s"
        except OSError as error:
            return f"could not be started: {error.strerror}"
        return f"ended with exit code {done.returncode}" if done.returncode else ""


def _standard_error() -> int:
    """Return the descriptor for hooks: our standard error, or descriptor 2 if a program replaced `sys.stderr`."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return 2
