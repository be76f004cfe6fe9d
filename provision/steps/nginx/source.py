"""The source of a build of nginx: version, arguments, patches and JavaScript module, and the hash of all of them."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from provision.steps.nginx.build_scripts import MODULE
from provision.steps.nginx_paths import CACHE, CONFIG, LOGS, PID, ROOT, RUN

USER = "provision-nginx"

LAYOUT = (
    f"--user={USER}",
    f"--group={USER}",
    f"--conf-path={CONFIG}/nginx.conf",
    f"--pid-path={PID}",
    f"--lock-path={RUN}/nginx.lock",
    f"--error-log-path={LOGS}/error.log",
    f"--http-log-path={LOGS}/access.log",
    f"--http-client-body-temp-path={CACHE}",
    f"--http-proxy-temp-path={CACHE}",
)
"""Compiled in, so that `nginx -t` by hand reads the service's configuration."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A patch file, or a tarball with `debian/patches/series`.

    Args:
        url: address of the file; not part of the recipe. A tarball's ends in `.tar.gz` or `.tar.xz`.
        sha256: hash of the file.
    """

    url: str
    sha256: str


COMPATIBLE = "--with-compat"
PACKAGED = {("debian", "13"): "1.26.3"}
"""Distribution and release -> the version of nginx for which its package `libnginx-mod-http-js` is made. Tried."""


@dataclass(frozen=True, kw_only=True)
class Njs:
    """nginx' JavaScript module.

    Args:
        url: address of a tarball of its source, which is compiled into nginx; not part of the recipe. Empty for the
            module of the distribution's package, which nginx loads.
        sha256: hash of the tarball; empty without a tarball.
    """

    url: str = ""
    sha256: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """The module in words for the build."""
        return f"njs:{self.url}", self.sha256 or "-"

    @property
    def arguments(self) -> tuple[str, ...]:
        """Arguments of nginx's `configure`. A module of another build needs a compatible nginx."""
        return ("--add-module=../njs/nginx",) if self.url else (COMPATIBLE,)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source of a build: equal sources give interchangeable binaries on one platform.

    Args:
        version: nginx's version.
        sha256: hash of the tarball.
        url: address of the tarball; not part of the recipe, because the hash identifies the tarball.
        arguments: arguments of `configure`, without the paths, which are ours.
        patches: the patches, in the order of their application.
        njs: nginx' JavaScript module; None without the module.
    """

    version: str
    sha256: str
    url: str
    arguments: tuple[str, ...] = ()
    patches: tuple[Patch, ...] = ()
    njs: Njs | None = None

    @property
    def name(self) -> str:
        """The source in an operator's words."""
        parts = [*(["patches"] if self.patches else []), *(["njs"] if self.njs else [])]
        return f"nginx {self.version}" + (f" with {' and '.join(parts)}" if parts else "")

    @property
    def recipe(self) -> str:
        """The hash of everything that makes a difference."""
        parts: dict[str, Any] = {
            "format": 1,
            "version": self.version,
            "sha256": self.sha256,
            "arguments": (*LAYOUT, *self.arguments),
        }
        if self.patches:  # without patches the recipe is that of earlier releases, and nothing is compiled again
            parts["patches"] = [patch.sha256 for patch in self.patches]
        if self.njs:
            parts["njs"] = self.njs.sha256 or "packaged"
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def prefix(self) -> str:
        """The folder of the installation."""
        return f"{ROOT}/{self.version}-{self.recipe[:8]}"

    @property
    def binary(self) -> str:
        """The program."""
        return f"{self.prefix}/sbin/nginx"

    @property
    def module(self) -> str:
        """The path of the JavaScript module that nginx loads; empty where nginx has none, or has the module inside."""
        return f"{self.prefix}/{MODULE}" if self.njs and not self.njs.url else ""

    @property
    def configure(self) -> tuple[str, ...]:
        """All arguments of `configure`."""
        more = [word for word in (self.njs.arguments if self.njs else ()) if word not in self.arguments]
        return (f"--prefix={self.prefix}", *LAYOUT, *self.arguments, *more)

    @property
    def parts(self) -> tuple[str, ...]:
        """The patches and the module, in words for the build."""
        patches = (word for patch in self.patches for word in (patch.url, patch.sha256))
        return (*patches, *(self.njs.words if self.njs else ()))
