"""Starts Locust as a process of its own, follows its records, and ends Locust.

A process of its own, because importing Locust patches the sockets of the importing process. Locust gets an empty home
and no variables of Locust's, so that the operator's configuration does not change the test. Its job is in a file of a
folder that is ours alone and is deleted afterwards.
"""

import dataclasses
import json
import os
import resource
import signal
import site
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provision.errors import ProvisionError
from provision.inventory import Secret
from provision.loadtest.measure import Tally
from provision.loadtest.profile import Profile
from provision.loadtest.record import RecordFiles
from provision.loadtest.trust import MACHINE, Trust

POLL = 0.2  # seconds between two looks at the records
MERCY = 5.0  # seconds that Locust has to end after SIGTERM
ENOUGH = 20  # answers before a share of failures has a meaning


@dataclass(frozen=True)
class Load:
    """One run of Locust.

    Args:
        targets: base URLs; each user chooses one.
        profile: the requests.
        users: how many users ask at the same time.
        spawn_rate: users that begin per second.
        seconds: how long users ask; answers under way then may still end.
        timeout: seconds that one answer may take, waiting included.
        processes: processes of Locust; each fills one core.
        most_requests: number of requests after which the run ends.
        most_failures: share of failed requests, 0 to 1, beyond which the run ends.
        key: key of the endpoint, or None.
        trust: how to trust targets with TLS.
    """

    targets: tuple[str, ...]
    profile: Profile
    users: int
    spawn_rate: float
    seconds: float
    timeout: float = 60.0
    processes: int = 1
    most_requests: int = 100_000
    most_failures: float = 0.5
    key: Secret | None = None
    trust: Trust = MACHINE


@dataclass(frozen=True)
class Web:
    """The address of Locust's own page.

    Args:
        host: address to listen on.
        port: TCP port.
    """

    host: str
    port: int


@dataclass(frozen=True)
class Ended:
    """The end of a run of Locust.

    Args:
        why: why the run ended early; empty where it did not.
        interrupted: whether the operator ended the run.
        guarded: whether we ended the run because too many requests failed.
        cpu: share of its processes' time that Locust worked, 0 to 1.
    """

    why: str = ""
    interrupted: bool = False
    guarded: bool = False
    cpu: float = 0.0


def run(
    load: Load, tally: Tally, progress: Callable[[Tally], None], wish: threading.Event, web: Web | None = None
) -> Ended:
    """Drive the load and count the records.

    Args:
        load: the load.
        tally: takes every request.
        progress: called a few times a second.
        wish: set when the operator wants to stop.
        web: show Locust's page, where the operator starts and stops the run; None: begin at once.

    Raises:
        ProvisionError: Locust did not start, or a process of Locust ended by itself.
    """
    before, begun = _cpu(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="provision-loadtest-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with _locust(load, folder, tally, web) as process:
            ended = _follow(_Watched(process, load, folder, tally), progress, wish, web)
    spent = (time.monotonic() - begun) * load.processes
    return dataclasses.replace(ended, cpu=(_cpu() - before) / spent)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def _locust(load: Load, folder: Path, tally: Tally, web: Web | None) -> Iterator[subprocess.Popen[bytes]]:
    """Locust, running; killed afterwards with all its processes, whatever happens.

    Locust holds one end of a pipe of ours, and ends itself when the other end closes: then we were killed.
    """
    alive, ours = os.pipe()
    (folder / "records").mkdir()
    (folder / "home").mkdir()
    job = folder / "job.json"
    job.touch(0o600)
    job.write_text(json.dumps(_job(load, tally, alive)))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            _words(load, web),
            cwd=folder / "home",
            env=_environment(job, folder / "home"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(alive,),
            start_new_session=True,  # only we get the terminal's Ctrl-C
        )
    os.close(alive)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(ours)


def _job(load: Load, tally: Tally, alive: int) -> dict[str, object]:
    """The job for the locustfile."""
    return {
        "alive": alive,
        "targets": list(load.targets),
        "profile": dataclasses.asdict(load.profile),
        "timeout": load.timeout,
        "key": load.key.reveal() if load.key else "",
        "trust": load.trust.document(load.targets),
        "labels": dict(tally.labels),
        "known": sorted(tally.known),
    }


def _words(load: Load, web: Web | None) -> list[str]:
    file = Path(__file__).with_name("locustfile.py")
    words = [sys.executable, "-m", "locust", "-f", str(file), "--host", load.targets[0], "--loglevel", "WARNING"]
    words += ["--users", str(load.users), "--spawn-rate", str(load.spawn_rate)]
    words += ["--run-time", f"{max(1, round(load.seconds))}s", "--stop-timeout", str(round(load.timeout) + 2)]
    words += ["--exit-code-on-error", "0"]
    words += ["--web-host", web.host, "--web-port", str(web.port)] if web else ["--headless", "--only-summary"]
    if load.processes > 1:
        port = str(_free_port())
        words += ["--processes", str(load.processes), "--master-bind-host", "127.0.0.1", "--master-bind-port", port]
        words += ["--master-port", port]
    return words


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(job: Path, home: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST")}
    return {**inherited, "HOME": str(home), "PYTHONUSERBASE": site.getuserbase(), "PROVISION_LOADTEST": str(job)}


class _Watched:
    """Locust's process and its output so far.

    Args:
        process: Locust's first process.
        load: its load.
        folder: the folder of its records and its log.
        tally: takes every record once.
    """

    def __init__(self, process: subprocess.Popen[bytes], load: Load, folder: Path, tally: Tally) -> None:
        self.process = process
        self.load = load
        self.tally = tally
        self._folder = folder
        self._files = RecordFiles(folder / "records")
        self._workers = 0
        self._due = time.monotonic() + load.seconds  # from then on its processes may end

    def read(self) -> None:
        """Count every new, whole line."""
        for record in self._files.new():
            self.tally.add(record)

    def check(self) -> None:
        """Make sure that no process of Locust has ended by itself.

        Raises:
            ProvisionError: a process has.
        """
        if self.process.returncode:
            raise ProvisionError(f"Locust ended with exit code {self.process.returncode}", self._log_end())
        if self.load.processes > 1 and self.process.returncode is None and time.monotonic() < self._due:
            now = _children(self.process.pid)
            if now < min(self._workers, self.load.processes):
                raise ProvisionError("one of Locust's processes ended by itself", self._log_end())
            self._workers = max(self._workers, now)

    def terminate(self) -> None:
        """Ask Locust to end."""
        self.process.terminate()

    def kill(self) -> None:
        """Kill Locust and all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _log_end(self) -> str:
        lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        return "Locust's last output: " + (" / ".join(lines[-3:])[:600] or "nothing")


def _children(pid: int) -> int:
    try:
        return len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except OSError:
        return 0


def _follow(watched: _Watched, progress: Callable[[Tally], None], wish: threading.Event, web: Web | None) -> Ended:
    """Read records until Locust has ended, or end Locust."""
    load, ended, ended_at = watched.load, None, 0.0
    latest = time.monotonic() + (float("inf") if web else load.seconds + load.timeout + 30)
    while watched.process.poll() is None:
        watched.read()
        progress(watched.tally)
        if ended is None:
            watched.check()
            ended = _early(load, watched.tally, wish, late=time.monotonic() > latest, web=web is not None)
            if ended:
                ended_at = time.monotonic()
                watched.terminate()
        elif time.monotonic() - ended_at > MERCY:
            watched.kill()
        time.sleep(POLL)
    watched.read()
    if ended is None:
        watched.check()
    return ended or Ended()


def _early(load: Load, tally: Tally, wish: threading.Event, *, late: bool, web: bool) -> Ended | None:
    """Why the run must end early, or None."""
    if wish.is_set():
        return Ended() if web else Ended("interrupted", interrupted=True)  # on Locust's page nothing else ends the run
    if tally.count >= load.most_requests:
        return Ended(f"{load.most_requests} requests were made, which is the most allowed")
    recent = tally.records[-max(ENOUGH, 10 * load.users) :]
    failed = sum(bool(record.problem) for record in recent)
    if len(recent) >= ENOUGH and failed / len(recent) > load.most_failures:
        share = f"{failed} of the last {len(recent)} requests failed"
        return Ended(f"{share}, more than {load.most_failures:.0%}", guarded=True)
    if late:
        raise ProvisionError("Locust did not end in time", "report it, please")
    return None
