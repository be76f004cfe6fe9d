"""The log that this machine keeps of the runs it started: what they were told, and what came of them.

A run whose process is gone without a result died. Its locks need not be waited for, and it can be resumed.
"""

import contextlib
import dataclasses
import datetime as dt
import json
import os
import shlex
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.runs.journal import kind_of
from provision.runs.lock import who

RUNS = 200  # logs that are kept
RUNNING, ENDED = ".running", ".json"


@dataclass(frozen=True)
class Log:
    """One run.

    Args:
        run: its id.
        command: what was called, such as `deploy`.
        inventory: absolute path of its inventory.
        limit: what `--limit` said.
        tags: what `--tags` said.
        skip_tags: what `--skip-tags` said.
        extra_vars: how many `-e` there were; what they said may be secret.
        serial: what `--serial` said.
        canary: whether `--canary` was said.
        max_fail: what `--max-fail` said.
        who: operator and machine.
        time: when it began.
        machine: name of the machine.
        pid: its process there.
        started: when that process began, in ticks since the boot; empty where that cannot be told.
        boot: id of the boot; likewise.
        exit: its exit code, or None while there is none.
        hosts: host -> result.
    """

    run: str
    command: str
    inventory: str
    limit: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    skip_tags: tuple[str, ...] = ()
    extra_vars: int = 0
    serial: str = ""
    canary: bool = False
    max_fail: str = ""
    who: str = field(default_factory=who)
    time: str = field(default_factory=lambda: dt.datetime.now(dt.UTC).isoformat(timespec="seconds"))
    machine: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    started: str = field(default_factory=lambda: _started(os.getpid()))
    boot: str = field(default_factory=lambda: _boot())
    exit: int | None = None
    hosts: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_dead(self) -> bool:
        """Whether its process is gone and left no result. What cannot be told counts as alive."""
        if self.exit is not None or self.machine != socket.gethostname():
            return False
        if self.boot and self.boot != _boot():
            return True
        if self.started:
            return _started(self.pid) != self.started
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    @property
    def is_over(self) -> bool:
        """Whether it died or ended here: a lock of it that is still on a host could not be given back."""
        return self.is_dead or (self.exit is not None and self.machine == socket.gethostname())

    @property
    def epitaph(self) -> str:
        """How a run that is over came to its end here, and the command that goes on with it."""
        how = (
            f"died: its process {self.pid} on this machine is gone"
            if self.is_dead
            else "has ended here and left this lock"
        )
        return f"run {self.run} {how}; to go on: {self.goes_on}"

    @property
    def goes_on(self) -> str:
        """The command that goes on with it."""
        if self.command == "deploy":
            again = " -e ..." if self.extra_vars else ""  # what they said may be secret, and is not kept
            return f"provision deploy --resume {self.run}{again}"
        return f"provision {self.command} -i {shlex.quote(self.inventory)}"


class Logs:
    """The logs of a user.

    Args:
        folder: where they are; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, log: Log) -> None:
        """Keep a log, in the place of the one that was there; forget those of long ago.

        Raises:
            OSError: it cannot be kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        running, ended = (self.folder / f"{log.run}{suffix}" for suffix in (RUNNING, ENDED))
        new = self.folder / f"{log.run}.new"
        new.touch(mode=0o600)
        new.write_text(json.dumps({"schema": 1, **dataclasses.asdict(log)}, indent=2))
        new.replace(running if log.exit is None else ended)
        (ended if log.exit is None else running).unlink(missing_ok=True)
        for suffix in (RUNNING, ENDED):
            for old in self._paths(suffix)[RUNS:]:
                old.unlink(missing_ok=True)

    def find(self, run: str) -> Log | None:
        """The log of a run, or None if there is none that can be read.

        Args:
            run: its id; a host may have named it, so that it may be anything.
        """
        if Path(run).name != run:
            return None
        return _read(self.folder / f"{run}{RUNNING}") or _read(self.folder / f"{run}{ENDED}")

    def over(self, run: str) -> Log | None:
        """The log of a run that is over here, or None: it runs, or this machine does not know it."""
        log = self.find(run)
        return log if log is not None and log.is_over else None

    def unfinished(self, inventory: str) -> Log | None:
        """The last deploy or rollback of an inventory, if it died.

        Args:
            inventory: its path.
        """
        wanted = str(Path(inventory).resolve())
        found = sorted([*self._paths(RUNNING), *self._paths(ENDED)], key=lambda path: path.stem, reverse=True)
        logs = (log for log in map(_read, found) if log is not None and log.inventory == wanted)
        last = next((log for log in logs if kind_of(log.command) in ("deploy", "rollback")), None)
        return last if last is not None and last.is_dead else None

    def _paths(self, suffix: str) -> Sequence[Path]:
        return sorted(self.folder.glob(f"*{suffix}"), reverse=True)


def is_over(run: str) -> bool:
    """Whether a run is over, by the logs of this user on this machine."""
    return Logs(default_folder()).over(run) is not None


def default_folder() -> Path:
    """Where logs are kept: below the user's folder of state."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "provision" / "runs"


def _read(path: Path) -> Log | None:
    names = {one.name for one in dataclasses.fields(Log)}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        said: dict[str, Any] = json.loads(path.read_text())
        told: dict[str, Any] = {"machine": "", "pid": 0, "started": "", "boot": ""}
        told |= {key: tuple(value) if isinstance(value, list) else value for key, value in said.items() if key in names}
        log = Log(**told)
        return log if log.run == path.stem else None
    return None


def _started(pid: int) -> str:
    """When a process began (proc(5), stat); empty where there is no such process, or no /proc."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
