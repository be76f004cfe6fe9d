"""The job of the bench as a pyinfra user would write it."""

import json
from pathlib import Path
from typing import Any

from pyinfra import config, host
from pyinfra.api import DeployError
from pyinfra.facts.docker import DockerContainer
from pyinfra.facts.files import File
from pyinfra.facts.server import Command
from pyinfra.operations import apt, docker, files, server, systemd

config.SUDO = True
data = host.data

repositories = [
    files.put(name=f"Repository file {path}", src=f"{data.files}/{Path(path).name}", dest=path, mode="644")
    for path in data.repositories
]
apt.update(name="Package lists", _if=lambda: any(one.did_change() for one in repositories))
apt.packages(name="Packages", packages=data.packages)

daemon = files.put(
    name="Docker's configuration",
    src=f"{data.files}/daemon.json",
    dest="/etc/docker/daemon.json",
    mode="644",
)
systemd.service(name="Docker runs", service="docker", running=True, enabled=True)
systemd.service(name="Restart Docker", service="docker", restarted=True, _if=daemon.did_change)

cards = host.get_fact(Command, "nvidia-smi --query-gpu=uuid --format=csv,noheader").splitlines()
docker.image(name="Image", image=data.image)


def differs(instance: dict[str, Any]) -> bool:
    """Whether a container differs from the wanted container; pyinfra's own operation does not look."""
    found = host.get_fact(DockerContainer, object_id=instance["name"])
    if not found:
        return False
    settings = found[0]["HostConfig"]
    ports = {"11434/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(instance["port"])}]}
    return (
        found[0]["Config"]["Image"] != data.image
        or not set(environment) <= set(found[0]["Config"]["Env"])
        or [request["DeviceIDs"] for request in settings["DeviceRequests"]] != [[cards[instance["gpu"]]]]
        or settings["PortBindings"] != ports
    )


environment = [f"{key}={value}" for key, value in data.environment_of_instances.items()]
for instance in data.instances:
    docker.container(
        name=f"Instance {instance['name']}",
        container=instance["name"],
        image=data.image,
        ports=[f"127.0.0.1:{instance['port']}:11434"],
        env_vars=environment,
        mounts=[f"type=volume,source={instance['name']},target=/root/.ollama"],
        restart_policy="unless-stopped",
        extra_args=["--gpus", f"device={cards[instance['gpu']]}"],
        force=differs(instance),
    )

for instance in data.instances:
    url = f"http://127.0.0.1:{instance['port']}/api"
    answers = host.get_fact(Command, f"curl -fsS {url}/tags && echo && curl -fsS {url}/ps").splitlines()
    pulled, loaded = ([model["name"] for model in json.loads(answer)["models"]] for answer in answers if answer)
    if data.model not in pulled:
        body = json.dumps({"model": data.model, "stream": False})
        server.shell(name=f"Pull for {instance['name']}", commands=[f"curl -fsS {url}/pull -d '{body}'"])
    if data.whole and data.model not in loaded:
        body = json.dumps({"model": data.model, "keep_alive": -1, "stream": False})
        server.shell(name=f"Load for {instance['name']}", commands=[f"curl -fsS {url}/generate -d '{body}'"])

if not host.get_fact(File, path=f"{data.nginx}/.provision"):
    raise DeployError("nginx is not built; the bench compares runs where it is")

units: list[Any] = []
configuration: list[Any] = []
if data.whole:
    server.user(name="The user of nginx", user="provision-nginx", system=True, ensure_home=False)
    for folder in ("/var/log/provision-nginx", "/var/cache/provision-nginx"):
        files.directory(name=f"Folder {folder}", path=folder)
    files.link(name="The nginx in use", path="/opt/provision/nginx/current", target=data.nginx)
    units += [
        files.put(
            name=f"File {unit['path']}",
            src=f"{data.files}/{Path(unit['path']).name}",
            dest=unit["path"],
            mode=unit["mode"].lstrip("0"),
        )
        for unit in data.units
    ]
    configuration += [
        files.put(name=f"nginx's {Path(path).name}", src=f"{data.files}/{Path(path).name}", dest=path, mode="644")
        for path in data.nginx_files
    ]

upstream = files.template(
    name="Upstream",
    src=data.template,
    dest="/etc/provision/nginx/upstream.conf",
    mode="644",
    jinja_env_kwargs={"trim_blocks": True},
    host_name=host.name,
    instances=data.instances,
    weight=data.weight,
)
systemd.daemon_reload(name="Units are read", _if=lambda: any(one.did_change() for one in units))
for service in ("provision-nginx", "provision-instances"):
    systemd.service(name=f"{service} runs", service=service, running=True, enabled=True)
systemd.service(
    name="Reload nginx",
    service="provision-nginx",
    reloaded=True,
    _if=lambda: any(one.did_change() for one in (*configuration, upstream)),
)
