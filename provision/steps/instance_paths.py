"""Where a host has what its instances need. All engines share these places, which are called after the first engine:
deployed hosts have them.
"""

FOLDER = "/etc/provision/ollama"
CARDS = f"{FOLDER}/cards"
"""The UUID of the card that each index of the inventory means."""
FIREWALL_RULES = f"{FOLDER}/firewall.rules"
INSTANCES = f"{FOLDER}/instances"
"""What is started at boot."""

PROGRAMS = "/opt/provision/lib/ollama-"
"""How the paths of the programs begin."""
FIREWALL_PROGRAM = f"{PROGRAMS}firewall"
INSTANCES_PROGRAM = f"{PROGRAMS}instances"


def env_file(name: str) -> str:
    """Where the variables of an instance are that nobody may see."""
    return f"{FOLDER}/{name}.env"
