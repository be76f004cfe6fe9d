"""Our balancer on a real nginx: the files that `provision deploy` renders from an inventory, with other folders."""

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from provision.inventory.client_file import ClientFile, Limits, save
from provision.plan import role_interface
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from tests.bench.gateway.client import Place
from tests.bench.gateway.places import CONCURRENCY, HOSTS, MODELS, Front
from tests.bench.gateway.processes import demand_free, started, wait_for
from tests.bench.measure import BenchError
from tests.gateway.packaged_nginx import PackagedNginx

PORT = 3008
WORKERS = 2
SETTINGS = {"worker_connections": 16384, "queue": 3000}
"""The settings of all balancers of the bench: room for 5,000 streams."""
ROUTED = {"router": "njs", "clients": "clients.json"}
STARTS = 30.0  # seconds
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_OURS = ("/var/log/provision-nginx", "/run/provision-nginx", "/var/cache/provision-nginx")


def inventory(address: str, number: int, balancer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inventory of a balancer over the simulated instances.

    Args:
        address: address of the balancer.
        number: number of the balancer, for its status port.
        balancer: settings beside those of all balancers. Without a router, all instances have the same model.
    """
    names = MODELS if balancer.get("router") else MODELS[:1] * len(MODELS)
    instances = [{"gpus": [card], "models": [name]} for card, name in enumerate(names)]
    hosts = {f"gpu-0{n}": {"ansible_host": at, "ollama": {"instances": instances}} for n, at in enumerate(HOSTS, 1)}
    common = {"listen": [address], "port": PORT, "status_port": 8080 + number, "worker_processes": WORKERS}
    variables = {
        "ansible_user": "bench",
        "nginx": {"accept_known_vulnerabilities": True},
        "ollama": {"context_length": 8192, "num_parallel": 1},
        "balancer": {**common, **SETTINGS, **balancer},
    }
    children = {"gpu": {"hosts": hosts}, "balancer": {"hosts": {"lb-01": {"ansible_host": address}}}}
    return {"all": {"vars": variables, "children": children}}


def rendered(folder: Path, document: Mapping[str, Any]) -> dict[str, bytes]:
    """Return name -> bytes of the files of the balancer of an inventory.

    Args:
        folder: a folder for the inventory; the file of the clients is there.
        document: the inventory.
    """
    path = folder / "inventory.yaml"
    path.write_text(yaml.safe_dump(document))
    known = role_interface.load(str(path))
    steps = (entry.step for entry in role_interface.steps(known.group("balancer")[0], known))
    step = next(step for step in steps if step.routes)
    want = step.in_fleet(FleetState()).want(HostFacts(), None)
    assert want is not None
    return {name: content.data for name, content in want["files"].items()}


def adapted(main: str, folder: Path, module: Path) -> str:
    """Return nginx.conf for a folder without a user of its own, and without a daemon.

    Args:
        main: the text of nginx.conf.
        folder: the folder of logs, of the pid and of temporary files.
        module: the JavaScript module.
    """
    for path in _OURS:
        main = main.replace(path, str(folder))
    lines = ["daemon off;", "user root;"]  # the folder belongs to us alone
    for line in main.splitlines():
        words = line.split()
        if words[:1] == ["load_module"]:
            lines.append(f"load_module {module};")
        elif words[:1] == ["http"]:
            lines += [line, *(f"    {name}_temp_path {folder}/temp;" for name in _TEMPORARY)]
        elif not words or (words[0] != "user" and not words[0].endswith("_temp_path")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def keys(folder: Path) -> dict[str, str]:
    """Write the file of the clients, and return client -> key.

    Args:
        folder: the folder of the inventory.
    """
    known, made = ClientFile(), {}
    for name, most in CONCURRENCY.items():
        known, made[name] = known.added(name, Limits(concurrency=most), int(time.time()))
    save(folder / "clients.json", known)
    return made


@contextmanager
def balancing(
    program: PackagedNginx, folder: Path, name: str, number: int, balancer: Mapping[str, Any]
) -> Iterator[Front]:
    """Run a balancer.

    Args:
        program: nginx.
        folder: a new folder for the balancer's files.
        name: name of the way to the instances.
        number: number of the balancer, for its address.
        balancer: settings of the balancer.
    """
    (folder / "temp").mkdir(parents=True)
    place = Place(f"127.24.0.{100 + number}", PORT)
    made = keys(folder)
    files = rendered(folder, inventory(place.address, number, balancer))
    files["nginx.conf"] = adapted(files["nginx.conf"].decode(), folder, program.module).encode()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    words = [*program.words, "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    checked = subprocess.run([*words, "-t"], capture_output=True, text=True, check=False)
    if checked.returncode:
        raise BenchError(f"nginx refuses the configuration of {name}\n{checked.stderr}")
    demand_free(place)
    with started(words, folder, folder, signal.SIGTERM) as process:
        wait_for(place, process, STARTS)
        yield Front(name, place, process.pid, made)
