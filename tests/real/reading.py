"""provision's read of a host, as far as the read asks an instance and looks at the files of models.

SIMULATED: the rest of the read, which is Docker's account of the container.
"""

import json

from provision.command import Answer, Script, sh
from provision.steps.docker import model_files, probe
from provision.steps.ollama import server_state
from provision.steps.ollama.server_state import Server
from tests.real.instance import Host, Instance

ID = "0" * 64
LOOK = Script(
    "look",
    f"""
ours="running {ID} 1 $1 sha256:0 $2"
{probe.answers((server_state.PROBE,))}
{model_files.shell((server_state.PROBE,))}
echo '# files'; files | base64 -w 0; echo
echo '# probes'; answers {ID} "$1"
""",
)
"""The parts of provision's read of a host that ask an instance and read the files of its models."""


def read(host: Host, instance: Instance) -> Server:
    """Return an instance, read by the parsers of provision's steps.

    Args:
        host: the host.
        instance: a running instance.
    """
    looked = host.run(sh(LOOK, instance.at, str(instance.folder), title="ask an instance"))
    return server_state.read(_whole(instance, looked.stdout)).by_name[instance.name]


def _whole(instance: Instance, looked: str) -> Answer:
    """The read of a host with one container, in which the answers and the files of the instance are real."""
    item = {
        "id": ID,
        "name": f"/{instance.name}",
        "status": "running",
        "started": "",
        "image": "ollama/ollama",
        "image_id": "sha256:0",
        "labels": {"provision.managed": "1", "provision.instance": instance.name},
        "mounts": [{"Destination": server_state.PROBE.home, "Source": str(instance.folder)}],
        "env": [f"{name}={value}" for name, value in instance.variables.items()],
        "visible": [None],
        "requests": None,
        "ports": {"11434/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(instance.port)}]},
        "networks": [None],
    }
    lines = ["# containers", json.dumps(item), "# image configs", "# images", "# volumes", "# pulled", "# listening"]
    return Answer(0, "\n".join([*lines, looked.rstrip(), "# end", ""]).encode(), b"")
