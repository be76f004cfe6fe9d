"""Docker's packages for a lab: the lab's own packages of Docker, with the programs of other releases."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from provision.lab import debs, machine, paths
from provision.lab.lab import Lab
from tests.real.install.docker import Built
from tests.real.install.workshop import Workshop

RELEASE = "trixie"
"""The release of the lab's hosts. Its containerd is 1.7 and its runc 1.1."""
_DAEMON = {"usr/sbin/dockerd": "dockerd", "usr/sbin/docker-proxy": "docker-proxy"}
_CLIENT = {"usr/bin/docker": "docker"}


def folder(shop: Workshop, builds: Sequence[Built]) -> Path:
    """Return a folder with the packages docker-ce and docker-ce-cli of every build.

    The scripts, the units and the dependencies of the packages are the distribution's, as in the lab's own packages.

    Args:
        shop: the workshop.
        builds: the built releases.

    Raises:
        LabError: the lab's own packages cannot be made.
    """
    Lab.prepare(RELEASE, install=True, say=shop.say)
    pool = paths.site(RELEASE) / "docker/linux" / machine.distribution() / "pool"
    target = shop.folder / "docker-packages"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for build in builds:
        for name, programs in (("docker-ce", _DAEMON), ("docker-ce-cli", _CLIENT)):
            (base,) = pool.glob(f"{name}_*.deb")
            suffix = base.name.split("-1~")[1].rpartition("_")[0]
            files = {path: Path(build.folder) / program for path, program in programs.items()}
            origin = f"The programs of {build.modules}, built for the tests of `provision`."
            debs.upgraded(base, f"5:{build.version}-1~{suffix}", files, origin, target)
    return target
