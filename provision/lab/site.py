"""The site: what the lab has in place of the internet."""

from pathlib import Path
from typing import Any

from provision.lab.network import Network


def ensure(release: str) -> None:
    """Make what the site serves, once per release."""


def start(network: Network, home: Path, release: str) -> None:
    """Start the site's servers in the lab's namespace."""


def host_files(network: Network) -> dict[str, str]:
    """Files that tell a host of the site."""
    return {}


def settings(network: Network) -> dict[str, Any]:
    """The role settings that point at the site."""
    return {}
