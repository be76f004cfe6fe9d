"""Docker 28 as Debian's next release packages Docker, unpacked into a folder: programs for a daemon of a test's own."""

import shutil
from pathlib import Path

from provision.lab.fetch import Archive, unpack
from provision.lab.shell import LabError, run
from tests.real.install.workshop import InstallError, Workshop, default_folder
from tests.verdicts import Program

SUITE, CONTAINERDS = "forky", "trixie"
"""The releases of Debian with docker.io and docker-cli 28.5, and with the lab's containerd."""
NAMES = ("dockerd", "docker", "docker-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc")
WORDS = "Debian's packages: docker.io and docker-cli of forky, containerd of trixie, and this machine's runc"
ADVICE = "Mend apt on this machine, then type make test-real PARTS=engine again."


def programs() -> list[Program]:
    """Unpack the programs where they are missing, and return them for the page.

    Raises:
        InstallError: a package is not to be had.
    """
    return [Program("Docker", version(installed(Workshop(default_folder()))), WORDS)]


def version(folder: Path) -> str:
    """Return the version that the daemon says, such as 28.5.2+dfsg4.

    Args:
        folder: the folder of the programs.
    """
    return run([folder / "dockerd", "--version"]).stdout.split()[2].rstrip(",")


def installed(shop: Workshop) -> Path:
    """Return the folder of the programs; missing programs are fetched first.

    Args:
        shop: the workshop.

    Raises:
        InstallError: a package is not to be had.
    """
    folder = shop.folder / "docker-packaged"
    if all((folder / name).is_file() for name in NAMES):
        return folder
    shop.say("fetching Docker's packages")
    work = shop.folder / "docker-debs"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        packages = {
            **Archive(SUITE).packages(["docker.io", "docker-cli"], work),
            **Archive(CONTAINERDS).packages(["containerd"], work),
        }
        # the machine's own release: a newer runc wants a newer C library
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "runc"], cwd=work)
    except LabError as error:
        raise InstallError(f"fetching Docker's packages failed: {error}. {ADVICE}") from None
    folder.mkdir(exist_ok=True)
    for package in [*packages.values(), *work.glob("runc_*.deb")]:
        unpack(package, work / "tree")
        for path in (work / "tree").glob("usr/*bin/*"):
            if path.name in NAMES and not path.is_symlink():
                shutil.copyfile(path, folder / path.name)
                (folder / path.name).chmod(0o755)
    if missing := [name for name in NAMES if not (folder / name).is_file()]:
        raise InstallError(f"Docker's packages have no program {', '.join(missing)}. {ADVICE}")
    return folder
