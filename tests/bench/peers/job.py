"""The peers' job: taken from the inventory and from a host as `provision` made it."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from provision.inventory import Host
from provision.plan import role_interface
from tests.bench.fleet import Fleet

# The files that decide about the sources of Docker's packages and of the toolkit.
REPOSITORIES = (
    "/etc/apt/keyrings/provision-docker.asc",
    "/etc/apt/keyrings/provision-nvidia_toolkit.asc",
    "/etc/apt/sources.list.d/provision-docker.sources",
    "/etc/apt/sources.list.d/provision-nvidia_toolkit.sources",
    "/etc/apt/preferences.d/provision-nvidia_toolkit",
)
# The files by which a host comes up again without help.
UNITS = (
    "/opt/provision/lib/ollama-instances",
    "/etc/provision/ollama/instances",
    "/etc/systemd/system/provision-instances.service",
    "/etc/systemd/system/provision-nginx.service",
    "/etc/logrotate.d/provision-nginx",
)
NGINX = tuple(f"/etc/provision/nginx/{name}.conf" for name in ("nginx", "site", "models", "status"))
DAEMON = "/etc/docker/daemon.json"
UPSTREAM = "/etc/provision/nginx/upstream.conf"
_FROM_DOCKER = ("docker-ce", "docker-ce-cli", "containerd.io")
_TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
_OTHERS = ("ca-certificates", "curl", "gnupg", "libpcre2-8-0", "logrotate", "openssl", "zlib1g")
_ENVIRONMENT = {
    "OLLAMA_NO_CLOUD": "1",
    "OLLAMA_NUM_PARALLEL": "1",
    "OLLAMA_CONTEXT_LENGTH": "4096",
    "OLLAMA_KEEP_ALIVE": "-1",
    "OLLAMA_MAX_LOADED_MODELS": "1",
}


class Job:
    """The files that each tool reads, in the bench's folder.

    Args:
        fleet: the lab, deployed.
        whole: whether the peers also look after all parts by which a bare host reaches this end state and comes up
            again after a boot (keys, units, users, folders, nginx's other files, loaded models), or only after the
            short job of docs/performance.md.
    """

    def __init__(self, fleet: Fleet, *, whole: bool = True) -> None:
        self.fleet = fleet
        self.whole = whole
        self.size = len(fleet.lab.hosts())
        self.inventory = {weight: fleet.write(f"weight-{weight}", self._weighted(weight)) for weight in (1, 2)}
        first, *_ = fleet.lab.hosts()
        for path in (*REPOSITORIES, *UNITS, *NGINX, DAEMON):
            (fleet.folder / Path(path).name).write_text(first.run(["cat", path]).stdout)
        upstream = first.run(["cat", UPSTREAM]).stdout.replace(first.name, "{{ host_name }}")
        self._template = fleet.folder / "upstream.conf.j2"
        self._template.write_text(upstream.replace("weight=1", "weight={{ weight }}", 1))
        found = role_interface.load(str(self.inventory[1]))
        hosts = {host.name: _host(host) for host in found.hosts if host.gpu}
        self._variables = self._shared(found.hosts[0])
        self._write_pyinfra(hosts)
        self._write_ansible(hosts)
        self._write_floor(fleet.recorded())

    def _weighted(self, weight: int) -> dict[str, Any]:
        """The inventory with this weight for the first instance of every host."""
        document = copy.deepcopy(self.fleet.document)
        for host in document["all"]["children"]["gpu"]["hosts"].values():
            host["ollama"]["instances"][0]["weight"] = weight
        return document

    def _shared(self, host: Host) -> dict[str, Any]:
        settings: Any = host.settings
        toolkit = f"{settings['nvidia_toolkit'].version}-1"
        current = self.fleet.lab.hosts()[0].run(["readlink", "/opt/provision/nginx/current"]).stdout.strip()
        return {
            "files": str(self.fleet.folder),
            "template": str(self._template),
            "whole": self.whole,
            "repositories": [path for path in REPOSITORIES if self.whole or "/keyrings/" not in path],
            "units": [{"path": path, "mode": "0755" if "/lib/" in path else "0644"} for path in UNITS],
            "nginx_files": list(NGINX),
            "packages": [*_OTHERS, *_FROM_DOCKER, *(f"{name}={toolkit}" for name in _TOOLKIT)],
            "image": settings["ollama"].image,
            "model": settings["ollama"].models[0],
            "environment_of_instances": _ENVIRONMENT,
            "nginx": current,
            "weight": 1,
        }

    def _login(self) -> dict[str, str]:
        lab = self.fleet.lab
        return {"user": "ops", "key": str(lab.key), "known_hosts": str(lab.known_hosts)}

    def _write_pyinfra(self, hosts: Mapping[str, dict[str, Any]]) -> None:
        described = {name: {"ssh_hostname": host["address"], **host} for name, host in hosts.items()}
        for weight in (1, 2):
            text = {**self._login(), "vars": {**self._variables, "weight": weight}, "hosts": described}
            self.path("pyinfra", weight).write_text(json.dumps(text))

    def _write_ansible(self, hosts: Mapping[str, dict[str, Any]]) -> None:
        login = {
            "ansible_user": "ops",
            "ansible_ssh_private_key_file": str(self.fleet.lab.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.fleet.lab.known_hosts}",
        }
        described = {name: {"ansible_host": host["address"], **host} for name, host in hosts.items()}
        document = {"gpu": {"vars": {**login, **self._variables}, "hosts": described}}
        self.path("ansible").write_text(yaml.safe_dump(document))

    def _write_floor(self, recorded: Mapping[str, list[dict[str, bytes]]]) -> None:
        """The same script as our own read sends, to every host its own; and a script that writes and reloads."""
        longest = {
            address: max(execs, key=lambda exchange: len(exchange["stdin"])) for address, execs in recorded.items()
        }
        read = {
            address: (exchange["command"].decode(), exchange["stdin"].decode()) for address, exchange in longest.items()
        }
        self._floor("read", read)
        for weight in (1, 2):
            texts = {host.address: host.run(["cat", UPSTREAM]).stdout for host in self.fleet.lab.hosts()}
            changed = {address: text.replace("weight=1", f"weight={weight}", 1) for address, text in texts.items()}
            scripts = {address: ("sudo -n sh -s", _writing(text)) for address, text in changed.items()}
            self._floor(f"change-{weight}", scripts)

    def _floor(self, name: str, said: Mapping[str, tuple[str, str]]) -> None:
        hosts = [{"address": a, "command": command, "stdin": stdin} for a, (command, stdin) in said.items()]
        self.path(f"floor-{name}").write_text(json.dumps({**self._login(), "hosts": hosts}))

    def path(self, name: str, weight: int = 1) -> Path:
        """The file of a tool.

        Args:
            name: name of the tool.
            weight: weight of the first instances.
        """
        return self.fleet.folder / f"{name}-{weight}.json"


def _host(host: Host) -> dict[str, Any]:
    instances = [{"name": one.name, "port": one.port, "gpu": one.gpus[0]} for one in host.instances]
    return {"address": host.connection.address, "instances": instances}


def _writing(text: str) -> str:
    quoted = text.replace("'", "'\\''")
    write = f"printf %s '{quoted}' >{UPSTREAM}.new\nmv {UPSTREAM}.new {UPSTREAM}"
    return f"set -e\n{write}\nsystemctl reload provision-nginx\n"
