"""This machine's log of the runs that it started: their arguments and results.

A run whose process is gone without a result has died. Its locks need no wait, and the run can be resumed.
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
from provision.runs.lock import Holder, who

RUNS = 200  # logs to keep
GOES_ON = "to go on"  # stands before the command that goes on with a run
RUNNING, ENDED = ".running", ".json"


@dataclass(frozen=True)
class Log:
    """One run.

    Args:
        run: the id.
        command: the command, such as `deploy`.
        inventory: absolute path of the inventory.
        limit: words of `--limit`.
        tags: words of `--tags`.
        skip_tags: words of `--skip-tags`.
        extra_vars: the number of `-e` options; their values may be secret.
        serial: the word of `--serial`.
        canary: whether `--canary` was given.
        max_fail: the word of `--max-fail`.
        who: operator and machine.
        time: the begin, as ISO 8601 in UTC.
        machine: name of the machine.
        pid: process id on the machine.
        started: start of the process, in ticks since the boot; empty if unknown.
        boot: id of the boot; empty if unknown.
        exit: exit code, or None before the end.
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
        """Whether the process is gone without a result. A process of unknown state counts as alive."""
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
        """Whether the run died or ended on this machine: a lock left on a host could not be given back."""
        return self.is_dead or (self.exit is not None and self.machine == socket.gethostname())

    @property
    def epitaph(self) -> str:
        """How the run ended on this machine, and the command that goes on."""
        how = (
            f"died: its process {self.pid} on this machine is gone"
            if self.is_dead
            else "has ended here and left this lock"
        )
        return f"run {self.run} {how}; {GOES_ON}: {self.goes_on}"

    @property
    def goes_on(self) -> str:
        """The command that goes on with the run."""
        if kind_of(self.command) == "deploy":
            again = " -e ..." if self.extra_vars else ""  # the values may be secret, and are not kept
            return f"provision deploy --resume {self.run}{again}"
        return f"provision {self.command} -i {shlex.quote(self.inventory)}"


class Logs:
    """The logs of a user.

    Args:
        folder: the folder of the logs, made with the first log.
        keep: number of logs that stay.
    """

    def __init__(self, folder: Path, keep: int = RUNS) -> None:
        self.folder = folder
        self.keep = keep

    def write(self, log: Log) -> None:
        """Write a log in place of the former log of the run, and delete old logs.

        Raises:
            OSError: the log cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        running, ended = (self.folder / f"{log.run}{suffix}" for suffix in (RUNNING, ENDED))
        new = self.folder / f"{log.run}.new"
        new.touch(mode=0o600)
        new.write_text(json.dumps({"schema": 1, **dataclasses.asdict(log)}, indent=2))
        new.replace(running if log.exit is None else ended)
        (ended if log.exit is None else running).unlink(missing_ok=True)
        for suffix in (RUNNING, ENDED):
            for old in self._paths(suffix)[self.keep :]:
                old.unlink(missing_ok=True)

    def find(self, run: str) -> Log | None:
        """Return the log of a run, or None if there is no readable log.

        Args:
            run: the id. A host may have named the run, so the text may be anything.
        """
        if Path(run).name != run:
            return None
        return _read(self.folder / f"{run}{RUNNING}") or _read(self.folder / f"{run}{ENDED}")

    def over(self, run: str) -> Log | None:
        """Return the log of a run that is over on this machine; None for a live or unknown run."""
        log = self.find(run)
        return log if log is not None and log.is_over else None

    def left_by(self, holder: Holder, who: str) -> Log | None:
        """Return the log of the run that left a lock on a host, if the run is over on this machine.

        Args:
            holder: the holder of the lock. The run of another operator may have been resumed, which no log here says.
            who: operator and machine.
        """
        return self.over(holder.run) if holder.who == who else None

    def unfinished(self, inventory: str) -> Log | None:
        """Return the last deploy or rollback of an inventory, if the run died.

        Args:
            inventory: path of the inventory.
        """
        wanted = str(Path(inventory).resolve())
        paths = sorted([*self._paths(RUNNING), *self._paths(ENDED)], key=lambda path: path.stem, reverse=True)
        logs = (log for log in map(_read, paths) if log is not None and log.inventory == wanted)
        last = next((log for log in logs if kind_of(log.command) in ("deploy", "rollback")), None)
        return last if last is not None and last.is_dead else None

    def _paths(self, suffix: str) -> Sequence[Path]:
        return sorted(self.folder.glob(f"*{suffix}"), reverse=True)


def is_over(run: str) -> bool:
    """Whether a run is over, by the logs of this user on this machine."""
    return Logs(default_folder()).over(run) is not None


def default_folder() -> Path:
    """Return the folder of logs, below the user's folder for state."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "provision" / "runs"


def _read(path: Path) -> Log | None:
    names = {item.name for item in dataclasses.fields(Log)}
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        stored: dict[str, Any] = json.loads(path.read_text())
        values: dict[str, Any] = {"machine": "", "pid": 0, "started": "", "boot": ""}
        values |= {
            key: tuple(value) if isinstance(value, list) else value for key, value in stored.items() if key in names
        }
        log = Log(**values)
        return log if log.run == path.stem else None
    return None


def _started(pid: int) -> str:
    """Return the start of a process (proc(5), stat); empty if there is no such process, or no /proc."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
