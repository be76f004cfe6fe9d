"""Commands of ours without the quarter of a second in which each command would import the same modules.

A process with the imported modules forks once for every command. The fork is a process of its own with the words, the
environment, the folder and the streams that a shell would have given it, and ends as the command does. The fork differs
in what Python does before `main`: nothing is imported any more, the seed of its hashes is that of its siblings, and
PYTHON* variables and a locale have no effect. `needs_a_start` knows the environments where the difference matters;
tests that kill or hold a command, and tests of the runbooks, start real processes.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_READ_AT_THE_START = ("PYTHON", "LC_", "LANG", "TZ")
_NOT_IMPORTED = ("provision.__main__", "provision.fabfile", "provision.lab", "provision.loadtest.locustfile")
_MESSAGE = 1 << 20  # bytes


def needs_a_start(env: Mapping[str, str]) -> bool:
    """Whether some variables only count for a fresh process."""
    return any(name.startswith(_READ_AT_THE_START) for name in env)


class Starter:
    """Starts commands; ends with its own process."""

    def __init__(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, its):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE)
        self._socket = ours
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.starter", str(its.fileno())],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parent.parent,
            )

    def run(
        self, words: Sequence[str], env: Mapping[str, str], timeout: float, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `provision` and wait for its end.

        Args:
            words: the words after `provision`.
            env: the whole environment.
            timeout: seconds after which the command is killed.
            cwd: folder of the command; this process's when None.

        Raises:
            TimeoutExpired: the command took longer.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            near, far = socket.socketpair()
            with near:
                with far:
                    asked = json.dumps([list(words), dict(env), str(cwd or Path.cwd())]).encode()
                    socket.send_fds(self._socket, [asked], [out.fileno(), err.fileno(), far.fileno()])
                code = self._end(near, words, timeout)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(["provision", *words], code, *texts)

    def _end(self, reply: socket.socket, words: Sequence[str], timeout: float) -> int:
        pid = int.from_bytes(reply.recv(8), "big")
        reply.settimeout(timeout)
        try:
            said = reply.recv(8)
        except BaseException as error:
            os.kill(pid, signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise subprocess.TimeoutExpired(list(words), timeout) from error
            raise
        assert said, "the starter ended"
        return int.from_bytes(said, "big", signed=True)

    def close(self) -> None:
        """End the starter."""
        self._socket.close()
        self._process.wait(60)


def _serve(control: socket.socket) -> list[str] | None:
    """Fork for every request, and report how each command ended. Returns the words in the process that becomes a
    command."""
    running: dict[int, tuple[int, socket.socket]] = {}
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for ready, _ in poll.poll():
            if ready != control.fileno():
                poll.unregister(ready)
                pid, reply = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                _tell(reply, code)
                reply.close()
                continue
            asked, files, _, _ = socket.recv_fds(control, _MESSAGE, 3)
            if not asked:
                return None
            pid = os.fork()
            if not pid:
                return _become(*json.loads(asked), files)
            reply = socket.socket(fileno=files[2])
            os.close(files[0])
            os.close(files[1])
            _tell(reply, pid)
            watched = os.pidfd_open(pid)
            running[watched] = pid, reply
            poll.register(watched, select.POLLIN)


def _tell(reply: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # the asking process has gone
        reply.sendall(number.to_bytes(8, "big", signed=True))


def _become(words: list[str], env: dict[str, str], cwd: str, files: list[int]) -> list[str]:
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return words


def _import_all() -> None:
    import provision

    for module in pkgutil.walk_packages(provision.__path__, "provision."):
        if not module.name.startswith(_NOT_IMPORTED):
            importlib.import_module(module.name)


def _main() -> None:
    _import_all()
    from provision.cli import main

    # Ctrl-C is for pytest: commands that pytest still runs afterwards are started from here
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    words = _serve(socket.socket(fileno=int(sys.argv[1])))
    if words is not None:
        sys.argv = ["provision", *words]
        main()


if __name__ == "__main__":
    _main()
