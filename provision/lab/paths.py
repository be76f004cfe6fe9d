"""Directories of the lab. State is per lab and goes with `lab down`; the cache is shared and stays."""

import hashlib
from pathlib import Path

STATE = Path("/var/lib/provision-lab")
CACHE = Path("/var/cache/provision-lab")
NETNS = Path("/run/netns")
SIMULATED = Path(__file__).parent / "simulated"


def site(release: str, packages: str = "") -> Path:
    """Directory that the lab's stand-in for the internet serves to hosts of `release`.

    Args:
        release: release of the hosts.
        packages: the folder of further packages of Docker; empty for none.
    """
    mark = f"-{hashlib.sha256(packages.encode()).hexdigest()[:12]}" if packages else ""
    return CACHE / "site" / f"{release}{mark}"
