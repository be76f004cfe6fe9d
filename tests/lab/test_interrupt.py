"""A run that is interrupted or killed: nothing half-done, the lock given back or expiring, a second run converges."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest
import yaml

from provision.runs.log import Logs, default_folder

from .conftest import at_work
from .test_rolling import containers, down, replaced

pytestmark = pytest.mark.lab


@pytest.fixture
def running(fleet, tmp_path):
    """A deploy with something to do on gpu-01, which a test stops at a line of its output."""
    fleet.on("gpu-01", "docker", "rm", "-f", "ollama1", "ollama2")
    path = tmp_path / "inventory.yaml"
    path.write_text(yaml.safe_dump(fleet.data))
    argv = [sys.executable, "-m", "provision", "deploy", "--yes", "-v", "-l", "gpu-01", "-i", str(path)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(Path(tmp_path) / "cache")}
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, stdin=subprocess.DEVNULL
    )

    def until(word: str) -> None:
        for line in process.stdout:
            if word in line:
                return
        pytest.fail(f"the run ended before its output had {word!r}")

    process.until = until
    yield process
    process.kill()
    process.wait()
    fleet.deploy()
    assert not any(fleet.changes().values())


def lock(fleet) -> str:
    return fleet.on("gpu-01", "sh", "-c", "cat /run/provision/lock 2>/dev/null || :").strip()


@pytest.mark.parametrize(
    ("number", "heard"),
    [
        (signal.SIGINT, "finishing what is under way on gpu-01, lb-01; press Ctrl-C again to cut it off"),
        (signal.SIGTERM, "SIGTERM: finishing what is under way on gpu-01, lb-01; send a second signal to cut it off"),
        (signal.SIGHUP, "SIGHUP: finishing what is under way on gpu-01, lb-01; send a second signal to cut it off"),
    ],
)
def test_ctrl_c_ends_the_step_and_says_where_it_stopped(running, fleet, number, heard):
    running.until("changing  container:ollama1")
    at_work(fleet, "container:ollama1", then="pkill -STOP -x dockerd")  # else the step may be over before the signal
    try:
        running.send_signal(number)
        running.until(heard)
    finally:
        fleet.on("gpu-01", "pkill", "-CONT", "-x", "dockerd")
    said, _ = running.communicate(timeout=600)
    assert running.returncode == 130
    assert "changed   container:ollama1" in said
    assert "STOPPED" in said
    assert "again: provision deploy" in said
    assert "Traceback" not in said
    assert lock(fleet) == ""


def test_at_a_terminal_one_role_of_one_host_is_asked_for_shown_and_done(fleet):
    """The run also changes the marks of the balancer, which nobody selected."""
    fleet.on("gpu-01", "docker", "rm", "-f", "ollama1")
    words = fleet.command("deploy", "-l", "gpu-01", "-t", "ollama")
    terminal, end = pty.openpty()
    process = subprocess.Popen(words, stdin=end, stdout=end, stderr=end, env={**fleet.environment, "TERM": "xterm"})
    os.close(end)
    said = b""
    # EIO when the command has ended
    with os.fdopen(terminal, "r+b", buffering=0) as screen, contextlib.suppress(OSError):
        while part := screen.read(4096):
            if b"Deploy this?" not in said and b"Deploy this?" in said + part:
                screen.write(b"y\n")
            said += part
    assert process.wait(600) == 0, said.decode()[-4000:]
    assert b"lb-01" in said
    assert b"bug" not in said
    assert not any(fleet.changes().values())


@pytest.mark.matrix
@pytest.mark.parametrize(("number", "apart"), [(signal.SIGINT, 0.0), (signal.SIGTERM, 1.5)])
def test_ctrl_c_twice_stops_at_once_and_still_says_where(running, fleet, number, apart):
    running.until("changing  container:ollama1")
    at_work(
        fleet, "container:ollama1", then="pkill -STOP -x dockerd"
    )  # else the step may be over before the second signal
    try:
        running.send_signal(number)
        running.until("finishing what is under way")  # two signals at once would be one
        time.sleep(apart)
        running.send_signal(number)
        said, _ = running.communicate(timeout=600)
    finally:
        fleet.on("gpu-01", "pkill", "-CONT", "-x", "dockerd")
    assert running.returncode == 130
    assert "STOPPED" in said
    assert "again: provision deploy" in said
    assert "Traceback" not in said
    assert "cutting off what is under way on gpu-01, lb-01" in said
    assert "root@" in lock(fleet), "the step that was cut off may still run: others are kept off until its lease ends"
    assert fleet.provision("deploy", "--yes", "-l", "gpu-01").code == 0, "and this machine knows that the run is over"


class Terminal:
    """A command at a terminal of its own, with a reader until the terminal closes."""

    def __init__(self, fleet, *words):
        self._screen, end = pty.openpty()
        self.process = subprocess.Popen(
            fleet.command(*words),
            stdin=end,
            stdout=end,
            stderr=end,
            env={**fleet.environment, "TERM": "xterm"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(end)
        self.said = b""
        self._left = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with contextlib.suppress(OSError):  # EIO when the command has ended
            while not self._left.is_set():
                if select.select([self._screen], [], [], 0.1)[0]:
                    self.said += os.read(self._screen, 4096)
        os.close(self._screen)

    def close(self):
        """Close the terminal: the kernel sends SIGHUP, and the command cannot write any more."""
        self._left.set()
        self._reader.join()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("how", [Terminal.close, pytest.param(Terminal.terminate, marks=pytest.mark.matrix)])
def test_a_roll_whose_terminal_is_closed_or_that_is_terminated_gives_instance_and_locks_back(fleet, lab, how):
    fleet.vars["ollama"]["log_max_file"] = 4
    before = containers(lab)
    terminal = Terminal(fleet, "deploy", "--yes", "-l", "gpu-01")
    try:
        at_work(fleet, "container:ollama1")
        assert down(fleet) == {"gpu-01/ollama1"}
        how(terminal)
        assert terminal.process.wait(600) == 130, terminal.said
    finally:
        terminal.process.kill()
        terminal.close()
    heard = b"SIGTERM: finishing what is under way on gpu-01, lb-01; send a second signal" in terminal.said
    assert heard or how is Terminal.close
    assert down(fleet) == set()
    assert replaced(before, containers(lab)) == {"gpu-01/ollama1"}
    for host in ("gpu-01", "lb-01"):
        assert fleet.on(host, "sh", "-c", "cat /run/provision/lock 2>/dev/null || :") == ""
    newest = json.loads(fleet.provision("history", "--json", "-n", "1").out)["runs"][0]["run"]
    assert Logs(default_folder()).find(newest).exit == 130
    del fleet.vars["ollama"]["log_max_file"]
    fleet.deploy()


def test_a_run_that_died_on_this_machine_is_known_and_its_locks_are_released(running, fleet):
    running.until("changing  container:ollama1")
    at_work(fleet, "container:ollama1")
    running.send_signal(signal.SIGSTOP)
    refused = fleet.provision("lock", "release", "--json")
    assert refused.code == 6, "the run is alive"
    assert {host["host"]: host["result"] for host in refused.doc["hosts"]}["gpu-01"] == "locked"
    assert " running" in fleet.provision("history", "-n", "1").out
    assert "resume" not in fleet.provision("plan").err
    running.send_signal(signal.SIGKILL)
    running.wait()
    run = fleet.provision("lock", "status", "--json").host("gpu-01")["lock"]["run"]
    gone = f"run {run} died: its process {running.pid} on this machine is gone"
    died = f"{gone}; to go on: provision deploy --resume {run}"
    told = fleet.provision("history", "-n", "1")
    assert " running" not in told.out
    assert " unfinished" in told.out
    for said in (told.out, fleet.provision("show", run).out, fleet.provision("plan").err):
        assert died in said
    assert fleet.provision("lock", "status").out.count(died) == 1
    released = fleet.provision("lock", "release")
    assert released.code == 0, released
    assert died in released.out
    assert lock(fleet) == ""
    resumed = fleet.provision("deploy", "--yes", "--resume", run)
    assert resumed.code == 0, resumed
    assert "died" not in fleet.provision("history").out


def test_a_killed_run_leaves_a_lease_that_others_see_and_that_expires(running, fleet, tmp_path):
    running.until("changing  container:ollama1")
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert "root@" in lock(fleet)
    # From another machine: this machine knows that the run is dead, and would take its lock.
    refused = fleet.provision("deploy", "--yes", "-l", "gpu-01", env={"XDG_STATE_HOME": str(tmp_path / "another")})
    assert refused.code == 6, refused
    assert "locked by" in refused.out
    # Without waiting: the uptime of the lease's end is put into the past.
    fleet.on("gpu-01", "sed", "-i", "s/^\\([^ ]*\\) [0-9]*/\\1 1/", "/run/provision/lock")
