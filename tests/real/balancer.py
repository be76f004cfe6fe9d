"""The balancer's rendered configuration on a real nginx, in front of real servers; only its paths are moved."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from provision.inventory import Connection, Host, Inventory
from provision.inventory import Instance as Declared
from provision.roles import balancer, nginx
from provision.steps.facts import HostFacts
from provision.steps.nginx.balancer_config import Balancing
from tests.real.instance import Instance, ask, free_port
from tests.real.models import CHAT

MOVED = ("/run/provision-nginx", "/var/log/provision-nginx", "/var/cache/provision-nginx")
USER = "user provision-nginx;"


@dataclass(frozen=True)
class Balancer:
    """A running nginx with the project's configuration.

    Attributes:
        port: port for clients, on loopback.
        status_port: port of nginx's counters, on loopback.
        folder: the folder of the configuration and of the logs.
        pid: nginx's first process.
    """

    port: int
    status_port: int
    folder: Path
    pid: int

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """The access log."""
        return (self.folder / "log/access.log").read_text()


def inventory(instances: Sequence[Instance], port: int, status_port: int) -> Inventory:
    """An inventory of one gpu host and a balancer, both on loopback.

    Args:
        instances: the running instances.
        port: the balancer's port for clients.
        status_port: the balancer's port for counters.
    """
    declared = tuple(
        Declared(
            host="gpu-01",
            name=instance.name,
            gpus=(number,),
            port=instance.port,
            models=(CHAT,),
            listen_address="127.0.0.1",
            parallel=int(instance.variables["OLLAMA_NUM_PARALLEL"]),
        )
        for number, instance in enumerate(instances)
    )
    settings = {
        "nginx": nginx.Settings(version="1.26.3"),
        "balancer": balancer.Settings(listen=("127.0.0.1",), port=port, status_port=status_port, worker_processes=2),
    }
    gpu = Host(
        name="gpu-01",
        groups=("gpu",),
        connection=Connection(address="127.0.0.1"),
        settings=settings,
        instances=declared,
    )
    front = Host(name="lb-01", groups=("balancer",), connection=Connection(address="127.0.0.1"), settings=settings)
    return Inventory(path="inventory.yaml", hosts=(gpu, front))


def files(known: Inventory) -> dict[str, str]:
    """The files of the balancer, as its step renders them."""
    steps = balancer.steps(known.host("lb-01"), known)
    step = next(step for step in steps if isinstance(step, Balancing))
    want = step.want(HostFacts(), None)
    assert want is not None
    return {name: content.data.decode() for name, content in want["files"].items()}


@contextmanager
def serving(program: Path, folder: Path, instances: Sequence[Instance]) -> Iterator[Balancer]:
    """Run nginx in front of instances.

    Args:
        program: nginx.
        folder: an empty folder.
        instances: the instances.
    """
    port, status_port = free_port(), free_port()
    for name in ("run", "log", "cache", "conf"):
        (folder / name).mkdir(parents=True)
    for name, text in files(inventory(instances, port, status_port)).items():
        (folder / "conf" / name).write_text(moved(text, folder))
    words = [program, "-e", folder / "log/error.log", "-c", folder / "conf/nginx.conf", "-g", "daemon off;"]
    checked = subprocess.run([*words[:5], "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as process:
        try:
            _wait(port)
            yield Balancer(port, status_port, folder, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


def moved(text: str, folder: Path) -> str:
    """Return a rendered file with its paths in a folder, for the user that runs the tests."""
    for path in MOVED:
        text = text.replace(
            path,
            str(
                folder
                / {"run": "run", "log": "log", "cache": "cache"}[path.split("/")[1 if path.startswith("/run") else 2]]
            ),
        )
    return text.replace(USER, "user root;" if os.geteuid() == 0 else "")


def _wait(port: int) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            ask(port, "GET", "/", limit=10)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
