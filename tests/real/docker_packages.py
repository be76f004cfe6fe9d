"""Docker's packages for a lab: the lab's own packages of Docker, with the programs of other releases."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from provision.lab import debs, machine, paths
from provision.lab.lab import Lab
from tests.real.install.docker import Built
from tests.real.install.workshop import InstallError, Workshop

RELEASE = "trixie"
"""The release of the lab's hosts. Its containerd is 1.7 and its runc 1.1."""
_DAEMON = {"usr/sbin/dockerd": "dockerd", "usr/sbin/docker-proxy": "docker-proxy"}
_CLIENT = {"usr/bin/docker": "docker"}
_LEFT, _RESTARTED = "deb-systemd-invoke start 'docker.service'", "deb-systemd-invoke restart 'docker.service'"
"""After an upgrade the distribution's script leaves the old daemon running. Docker's own package has the default of
debhelper, a restart: docker/docker-ce-packaging `deb/common/rules`, dh_installsystemd(1) --restart-after-upgrade."""


def folder(shop: Workshop, builds: Sequence[Built]) -> Path:
    """Return a folder with the packages docker-ce and docker-ce-cli of every build.

    The scripts, the units and the dependencies of the packages are the distribution's, as in the lab's own packages.
    But an upgrade restarts the daemon, as with Docker's own packages.

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
            made = debs.upgraded(base, f"5:{build.version}-1~{suffix}", files, origin, target)
            if name == "docker-ce":
                restarting(shop, made)
    return target


def restarting(shop: Workshop, package: Path) -> None:
    """Let the script of a package restart the daemon after an upgrade.

    Args:
        shop: the workshop.
        package: the package docker-ce of the lab, which is written anew.

    Raises:
        InstallError: the script does not start the daemon by the known line.
    """
    tree, advice = package.with_suffix(""), "Look at the package."
    shop.run(["dpkg-deb", "--raw-extract", package, tree], f"unpacking {package.name}", advice)
    script = tree / "DEBIAN/postinst"
    text = script.read_text()
    if text.count(_LEFT) != 1:
        raise InstallError(f"the script postinst of {package.name} has no line {_LEFT!r}. {advice}")
    script.write_text(text.replace(_LEFT, _RESTARTED))
    shop.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, package], f"packing {package.name}", advice)
    shutil.rmtree(tree)
