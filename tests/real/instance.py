"""A real Ollama as an instance: a process on loopback that the stand-in for docker starts and stops."""

import http.client
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.command import Command, Run

STAND_IN = Path(__file__).with_name("docker.sh")
VARIABLES = {
    "OLLAMA_KEEP_ALIVE": "-1",
    "OLLAMA_NUM_PARALLEL": "1",
    "OLLAMA_MAX_LOADED_MODELS": "1",
    "OLLAMA_CONTEXT_LENGTH": "2048",
    "OLLAMA_NO_CLOUD": "1",
}
"""As the role sets them by default, with a short context."""
NVIDIA_SMI = """#!/bin/sh
# Stands in for nvidia-smi: a card without processes; the file `used` has the memory in use. SIMULATED.
case "$*" in
  *compute-apps*) ;;
  *memory.used*) cat "$CONTAINERS/../used" ;;
  *) echo 'GPU 0: a card, simulated (UUID: GPU-1)' ;;
esac
"""


@dataclass(frozen=True)
class Host:
    """A folder that plays a gpu host: instances, and programs that stand in for those of a host.

    Args:
        folder: the folder.
        ollama: the program of the real server.
    """

    folder: Path
    ollama: str

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of scripts on this host."""
        return {
            "PATH": f"{self.folder}/programs:{os.environ['PATH']}",
            "CONTAINERS": f"{self.folder}/containers",
            "HOME": str(self.folder),
        }

    def prepare(self) -> "Host":
        """Write the programs."""
        programs = self.folder / "programs"
        programs.mkdir(parents=True)
        (self.folder / "containers").mkdir()
        shutil.copy(STAND_IN, programs / "docker")
        (programs / "nvidia-smi").write_text(NVIDIA_SMI)
        self.card_in_use(0)
        for program in programs.iterdir():
            program.chmod(0o755)
        return self

    def card_in_use(self, mib: int) -> None:
        """Let the simulated card say how much of its memory is in use."""
        (self.folder / "used").write_text(f"{mib}\n")

    def instance(self, name: str, models: Path | None = None, **variables: str) -> "Instance":
        """Make an instance, not started.

        Args:
            name: name of the container.
            models: a folder of models whose files the instance gets as links.
            variables: environment variables of the server.
        """
        return Instance(self, name, free_port(), {**VARIABLES, **variables}).make(models)

    def run(self, command: Command, limit: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a command of provision as a host does.

        Args:
            command: a command with a script.
            limit: seconds.
        """
        with self.started(command) as process:
            try:
                said, complaint = process.communicate(limit_text(command), timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                said, complaint = process.communicate()
                complaint += f"\nended by the test after {limit} s"
        return subprocess.CompletedProcess(process.args, process.returncode, said, complaint)

    @contextmanager
    def started(self, command: Command) -> "Iterator[subprocess.Popen[str]]":
        """A command of provision, running in a group of processes of its own. The caller writes the script to it."""
        assert isinstance(command, Run)
        with subprocess.Popen(
            command.words,
            env={**os.environ, **self.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            yield process


def limit_text(command: Command) -> str:
    """The text that a command reads: its script."""
    assert isinstance(command, Run)
    return command.stdin.decode()


@dataclass(frozen=True)
class Instance:
    """A container of a host, with a real server.

    Args:
        host: the host.
        name: name of the container.
        port: TCP port on loopback.
        variables: environment variables of the server.
    """

    host: Host
    name: str
    port: int
    variables: Mapping[str, str]

    @property
    def folder(self) -> Path:
        """The folder of the models and of the log."""
        return self.host.folder / "containers" / self.name

    @property
    def at(self) -> str:
        """ADDRESS:PORT of the server."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process of the server; 0 while the server is stopped."""
        text = (self.folder / "pid").read_text() if (self.folder / "pid").exists() else ""
        return int(text or 0)

    @property
    def log(self) -> str:
        """The server's log since its start."""
        return (self.folder / "log").read_text(errors="replace")

    def make(self, models: Path | None) -> "Instance":
        """Write the files of the container."""
        (self.folder / "models").mkdir(parents=True)
        if models:
            link(models, self.folder / "models")
        variables = {
            **self.variables,
            "OLLAMA_HOST": self.at,
            "OLLAMA_MODELS": str(self.folder / "models"),
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
        }
        words = ["exec", "env", "-i", *(f"{name}={value}" for name, value in variables.items()), self.host.ollama]
        (self.folder / "run").write_text(f"#!/bin/sh\n{shlex.join(words)} serve\n")
        (self.folder / "run").chmod(0o755)
        (self.folder / "at").write_text(f"{self.at}\n")
        (self.folder / "env").write_text(json.dumps([f"{key}={value}" for key, value in self.variables.items()]))
        (self.folder / "id").write_text(f"{self.name}\n")
        return self

    def behind(self, at: str) -> None:
        """Publish the container at another address, such as that of a proxy in front of the server."""
        (self.folder / "at").write_text(f"{at}\n")

    def start(self) -> "Instance":
        """Start the server, and wait until the server answers."""
        self.docker("start")
        deadline = time.monotonic() + 60
        while True:
            try:
                ask(self.port, "GET", "/api/version")
            except OSError:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{self.name} does not answer: {self.log[-2000:]}") from None
                time.sleep(0.1)
            else:
                return self

    def stop(self) -> None:
        """Stop the server."""
        self.docker("stop")

    def kill(self) -> None:
        """Kill the server and its runner, as an out-of-memory killer does."""
        if self.pid:
            with suppress(ProcessLookupError):  # the server has ended already
                os.killpg(self.pid, signal.SIGKILL)
        (self.folder / "pid").write_text("")

    def docker(self, word: str) -> None:
        """Call the stand-in for docker."""
        environment = {**os.environ, **self.host.environment}
        subprocess.run(["docker", word, self.name], env=environment, check=True, stdin=subprocess.DEVNULL)

    def client(self, *words: str, port: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run the real command line of Ollama.

        Args:
            words: words of the command.
            port: port to talk to; by default the port of this instance.
        """
        return subprocess.run(
            [self.host.ollama, *words],
            env={
                **os.environ,
                "OLLAMA_HOST": f"127.0.0.1:{port or self.port}",
                "HOME": str(self.folder),
                "TERM": "dumb",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


def link(models: Path, target: Path) -> None:
    """Give a folder the files of a folder of models, as links where the file system allows links."""
    shutil.copytree(models, target, dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy(source, target)
    return target


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def ask(port: int, method: str, path: str, body: Any = None, limit: float = 120) -> tuple[int, Mapping[str, str], str]:
    """Return status, headers and text of an answer.

    Args:
        port: port on loopback.
        method: the HTTP method.
        path: the path.
        body: sent as JSON.
        limit: seconds.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit)
    with closing(connection):
        kind = {"Content-Type": "application/json"} if body is not None else {}
        connection.request(method, path, json.dumps(body) if body is not None else None, kind)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode(errors="replace")
