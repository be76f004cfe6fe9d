"""Programs of the operator that run around a deploy, a rollback, a drain and an undrain: `hooks/` beside the inventory.

    hooks/pre-deploy    before anything is touched; if it fails, nothing is
    hooks/post-deploy   when every host came to what was wanted
    hooks/on-failure    when one did not

Each gets one JSON document on standard input. Its environment says which command runs (`PROVISION_COMMAND`: `deploy`,
`rollback`, `drain` or `undrain`), which hook this is (`PROVISION_EVENT`), and the id of the run (`PROVISION_RUN`); the
document has the same three as `command`, `event` and `run`. What a hook prints goes to our standard error.
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
        command: the command that runs, given to each hook as PROVISION_COMMAND.
    """

    def __init__(self, inventory: str, run_id: str, command: str) -> None:
        self._folder = Path(inventory).resolve().parent / FOLDER
        self._run_id = run_id
        self._command = command

    def before(self, document: Mapping[str, Any]) -> None:
        """Run pre-deploy.

        Raises:
            GuardError: it failed, so nothing is to be done.
            UsageError: it must not be run.
        """
        problem = self._call(PRE, document)
        if problem:
            raise GuardError(f"{PRE} {problem}: nothing was touched", "see what it said above")

    def after(self, document: Mapping[str, Any], *, failed: bool) -> str:
        """Run post-deploy or on-failure. The result of the run stays what it was.

        Returns:
            what went wrong with the hook, or nothing.
        """
        name = FAILURE if failed else POST
        try:
            problem = self._call(name, document)
        except UsageError as error:
            return error.message
        return f"{name} {problem}" if problem else ""

    def check(self) -> None:
        """Look at all of them before anything is done.

        Raises:
            UsageError: one must not be run.
        """
        for name in (PRE, POST, FAILURE):
            self._program(name)

    def _program(self, name: str) -> Path | None:
        """The program, or None if there is none.

        Raises:
            UsageError: it is there and cannot be run, or somebody else could have written it.
        """
        path = self._folder / name
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"{path} cannot be looked at: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK):
            raise UsageError(f"{path} is no program", f"chmod +x {path}, or take it away")
        if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UsageError(f"{path} can be written by others than you", f"chmod go-w {path}")
        return path

    def _call(self, name: str, document: Mapping[str, Any]) -> str:
        """Run a hook, if it is there; what went wrong with it, or empty."""
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
    """Where hooks print: our standard error, or that of the process where a program has replaced ours by no file."""
    try:
        return sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):
        return 2
