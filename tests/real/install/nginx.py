"""The real nginx, compiled from the tarball of Debian's source package with the arguments of the project."""

from pathlib import Path

from provision.lab.fetch import Archive
from provision.lab.shell import LabError
from provision.roles.nginx import KNOWN, LEAN
from provision.steps.nginx.build import TOOLS
from provision.steps.nginx.source import Source
from tests.real.install import packages
from tests.real.install.workshop import InstallError, Workshop, sha256

VERSION = "1.26.3"
RELEASE = "trixie"
"""The release of Debian whose source package has the tarball, byte for byte upstream's."""
WORDS = (
    f"the tarball of Debian's source package, sha256 {KNOWN[VERSION][:16]}..., compiled here with the role's arguments"
)
ADVICE = "Mend apt on this machine, then type make test-real again."


def installed(shop: Workshop) -> Path:
    """Return the program nginx; a missing one is compiled first.

    Raises:
        InstallError: the tarball is not to be had or is another one, or nginx does not compile.
    """
    source = Source(version=VERSION, sha256=KNOWN[VERSION], url="", arguments=LEAN)
    target = shop.folder / f"nginx-{VERSION}-{source.recipe[:8]}"
    if target.is_file():
        return target
    packages.distribution(shop, [*TOOLS.packages, "dpkg-dev"], "compiling nginx")
    shop.say(f"compiling nginx {VERSION}: about a minute")
    work = shop.folder / "nginx"
    shop.run(["rm", "-rf", work], "emptying a folder", ADVICE)
    work.mkdir()
    try:
        tarball = Archive(RELEASE).source_tarball("nginx", work)
    except LabError as error:
        raise InstallError(f"fetching the source of nginx {VERSION} failed: {error}. {ADVICE}") from None
    if sha256(tarball) != source.sha256:
        raise InstallError(f"{tarball} has sha256 {sha256(tarball)}, and {source.sha256} is expected: another nginx")
    shop.run(["tar", "-xf", tarball, "--strip-components=1"], "unpacking nginx", ADVICE, folder=work)
    shop.run(["./configure", *source.configure], f"configuring nginx {VERSION}", ADVICE, folder=work)
    shop.run(["make", "-j2"], f"compiling nginx {VERSION}", ADVICE, folder=work)
    (work / "objs/nginx").rename(target)
    return target
