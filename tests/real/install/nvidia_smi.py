"""A real nvidia-smi, from Debian's section non-free, with a stand-in for NVIDIA's library.

The machine's own package sources stay as they are: apt reads lists of its own below the cache, from the Debian mirror
that the machine uses already, and checks the signatures as always. Nothing is installed; two packages are unpacked.
"""

import platform
from dataclasses import dataclass
from pathlib import Path

from tests.real.install import packages
from tests.real.install.workshop import InstallError, Workshop, default_folder
from tests.verdicts import Program

RELEASE, VERSION = "trixie", "550.163.01-2"
PACKAGES = ("nvidia-smi", "libnvidia-ml1")
STAND_IN = Path(__file__).parents[1] / "nvml" / "stand_in.c"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = "Let this machine reach a Debian mirror with the section non-free, then type make test-real PARTS=nvidia_smi."
_UNPACKED = "usr/lib/nvidia/current"
_LIBRARY = "usr/lib/x86_64-linux-gnu/nvidia/current"


@dataclass(frozen=True)
class Built:
    """The program and its libraries.

    Attributes:
        program: the real nvidia-smi.
        library: the folder of NVIDIA's real libnvidia-ml.so.1.
        stand_in: the folder of the stand-in for this library.
    """

    program: Path
    library: Path
    stand_in: Path

    @property
    def words(self) -> str:
        """The source in words for the page."""
        return f"Debian's {' and '.join(PACKAGES)} {VERSION}, unpacked; SIMULATED: the library, by tests/real/nvml"


def programs() -> list[Program]:
    """Fetch the program where it is missing, and return it for the page.

    Raises:
        InstallError: see `installed`.
    """
    made = installed(Workshop(default_folder()))
    return [Program("nvidia-smi", VERSION, made.words)]


def installed(shop: Workshop) -> Built:
    """Return nvidia-smi; missing packages are fetched, and the stand-in is compiled, first.

    Args:
        shop: the workshop.

    Raises:
        InstallError: no amd64 machine with a Debian mirror, no package of this version, or no compiler.
    """
    if platform.machine() != "x86_64":
        raise InstallError(
            f"Debian's nvidia-smi {VERSION} runs on amd64 alone, and this machine is {platform.machine()}"
        )
    folder = shop.folder / f"nvidia-smi-{VERSION}"
    made = Built(folder / _UNPACKED / "nvidia-smi", folder / _LIBRARY, folder / "stand-in")
    if not (made.program.is_file() and (made.library / "libnvidia-ml.so.1").exists()):
        fetched(shop, folder)
    packages.distribution(shop, ("gcc", "libc6-dev"), "compiling the stand-in for NVIDIA's library")
    made.stand_in.mkdir(exist_ok=True)
    words = ["gcc", "-Wall", "-shared", "-fPIC", "-o", str(made.stand_in / "libnvidia-ml.so.1"), str(STAND_IN)]
    shop.run(words, "compiling the stand-in for NVIDIA's library", "Look at tests/real/nvml/stand_in.c.")
    return made


def fetched(shop: Workshop, folder: Path) -> None:
    """Fetch the packages and unpack them in a folder.

    Args:
        shop: the workshop.
        folder: the folder.

    Raises:
        InstallError: no Debian mirror, or no package of this version.
    """
    packages.distribution(shop, ("debian-archive-keyring",), "checking Debian's packages")
    shop.say(f"fetching {' '.join(PACKAGES)} {VERSION} of Debian {RELEASE}: 30 MB of package lists, 2 MB of packages")
    for part in ("lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    source = folder / "debian.list"
    source.write_text(f"deb [arch=amd64 signed-by={KEYRING}] {_mirror(shop)} {RELEASE} non-free\n")
    places = {
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Etc::sourcelist": source,
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Sandbox::User": "root",
    }
    options = [word for name, value in places.items() for word in ("-o", f"{name}={value}")]
    doing = f"fetching {' '.join(PACKAGES)} {VERSION}"
    shop.run(["apt-get", *options, "-q", "update"], doing, SOURCES)
    wanted = [f"{name}={VERSION}" for name in PACKAGES]
    shop.run(["apt-get", *options, "-q", "download", *wanted], doing, SOURCES, folder)
    for package in folder.glob("*.deb"):
        shop.run(["dpkg-deb", "-x", str(package), str(folder)], f"unpacking {package.name}", SOURCES)


def _mirror(shop: Workshop) -> str:
    """Return the address of the Debian mirror in the machine's own package sources."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT) $(CODENAME)"]
    rows = [line.split() for line in shop.run(words, "asking apt for its sources", packages.APT).splitlines()]
    mirrors = [
        row[0] for row in rows if len(row) == 4 and row[1:3] == ["Debian", "main"] and not row[3].endswith("-security")
    ]
    if not mirrors:
        raise InstallError(f"apt of this machine has no lists of Debian's section main. {SOURCES}")
    return mirrors[0]
