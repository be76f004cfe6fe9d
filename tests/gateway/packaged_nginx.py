"""Debian 13's nginx and its JavaScript module, unpacked and never installed.

The programs run by the loader and the libraries of their own release, so the release of this machine does not matter.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from provision.lab import paths
from provision.lab.fetch import Archive
from provision.lab.locks import locked
from provision.lab.shell import run

RELEASE = "trixie"
PACKAGES = (
    "nginx",
    "libnginx-mod-http-js",
    "libc6",
    "libcrypt1",
    "liblzma5",
    "libpcre2-8-0",
    "libssl3t64",
    "libxml2",
    "libzstd1",
    "zlib1g",
)
"""nginx, the module, and the libraries that both load."""


@dataclass(frozen=True)
class PackagedNginx:
    """An unpacked nginx.

    Attributes:
        folder: the root of the unpacked packages.
    """

    folder: Path

    @property
    def words(self) -> Sequence[str]:
        """The words that start nginx."""
        (libraries,) = self.folder.glob("usr/lib/*-linux-gnu*")
        (loader,) = libraries.glob("ld-linux-*.so.*")
        return (str(loader), "--library-path", str(libraries), str(self.folder / "usr/sbin/nginx"))

    @property
    def module(self) -> Path:
        """The JavaScript module."""
        return self.folder / "usr/lib/nginx/modules/ngx_http_js_module.so"


def unpacked() -> PackagedNginx:
    """Return nginx with the module; missing packages are downloaded first, into the cache of the lab.

    Raises:
        LabError: the machine's mirror lacks a package.
    """
    target = paths.CACHE / "gateway-nginx"
    with locked("_cache"):
        if not target.is_dir():
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            (partial / "debs").mkdir(parents=True)
            for package in Archive(RELEASE).packages(list(PACKAGES), partial / "debs").values():
                run(["dpkg-deb", "--extract", package, partial])
            shutil.rmtree(partial / "debs")
            partial.rename(target)
    return PackagedNginx(target)
