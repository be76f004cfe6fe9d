"""The paths on a host for its instances, shared by all engines. The paths have the name of the first engine, because
deployed hosts have these paths.
"""

FOLDER = "/etc/provision/ollama"
CARDS = f"{FOLDER}/cards"
"""The UUID of the card behind each index of the inventory."""
FIREWALL_RULES = f"{FOLDER}/firewall.rules"
INSTANCES = f"{FOLDER}/instances"
"""The instances to start at boot."""

MEASURED = "/var/lib/provision/measured"
"""The folder with the sizes of loaded models: a file for each instance, gone with the instance."""

PROGRAMS = "/opt/provision/lib/ollama-"
"""The begin of the paths of programs."""
FIREWALL_PROGRAM = f"{PROGRAMS}firewall"
INSTANCES_PROGRAM = f"{PROGRAMS}instances"


def env_file(name: str) -> str:
    """Return the path of an instance's secret variables."""
    return f"{FOLDER}/{name}.env"
