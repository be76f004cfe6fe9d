"""Directories of the lab. State is per lab and goes with `lab down`; the cache is shared and stays."""

from pathlib import Path

STATE = Path("/var/lib/provision-lab")
CACHE = Path("/var/cache/provision-lab")
NETNS = Path("/run/netns")
SIMULATED = Path(__file__).parent / "simulated"


def site(release: str) -> Path:
    """Directory that the lab's stand-in for the internet serves to hosts of `release`."""
    return CACHE / "site" / release
