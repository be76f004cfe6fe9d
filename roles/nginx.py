"""nginx from source: built once per platform in its own prefix, with our user, unit, logs and log rotation."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from provision.errors import Problem
from provision.inventory import Host, Inventory, Name, Sha256, Text, Url, Version, shared_settings
from provision.inventory import Settings as Base
from provision.inventory.mirrors import Outside
from provision.inventory.settings import KeyPath
from provision.inventory.topology import is_balancing
from provision.render import render
from provision.steps import engines
from provision.steps.base import Owned, Step
from provision.steps.nginx import vulnerabilities
from provision.steps.nginx.build import Build, OwnedBuilds
from provision.steps.nginx.source import USER, Njs, Patch, Source
from provision.steps.nginx_paths import CACHE, CURRENT, LOGS, UNIT
from provision.steps.system.account import Account, OwnedAccounts
from provision.steps.system.apt import Packages
from provision.steps.system.file import Directory, File, OwnedFiles
from provision.steps.system.link import Link, OwnedLinks
from provision.steps.system.owned_units import OwnedUnits
from provision.steps.system.program import OwnedPrograms, Program
from provision.steps.system.systemd import Unit

KNOWN = {
    "1.26.3": "69ee2b237744036e61d24b836668aad3040dda461fe6f570f1787eab570c75aa",
    "1.28.3": "2c96a946bfb0882a21744ed429770a2123ae1828c7c48665092993ddee91a918",
    "1.30.4": "4261dc90e9e47c1c4041276e9aaa3d48ebe2e664f728e14fa95ae6c67d57a08b",
    "1.30.5": "6c20565aa2325cb82216ae804f4a4ff1875179014759a381c42ddc8e11c4906d",
}
"""sha256 of the tarballs, docs/facts.md#nginx-versions. The hash of 1.26.3 was computed here."""

LEAN = (
    "--with-http_ssl_module",
    "--with-http_v2_module",
    "--with-http_realip_module",
    "--with-http_stub_status_module",
    "--with-http_auth_request_module",
    "--with-threads",
    "--with-pcre-jit",
    "--without-http_scgi_module",
    "--without-http_uwsgi_module",
    "--without-http_fastcgi_module",
    "--without-http_grpc_module",
    "--without-http_memcached_module",
    "--without-http_ssi_module",
    "--without-http_userid_module",
    "--without-http_autoindex_module",
    "--without-http_browser_module",
    "--without-http_empty_gif_module",
    "--without-http_charset_module",
    "--without-http_mirror_module",
)
"""The modules of a balancer and no more (docs/facts.md#nginx-build): a missing module cannot be attacked."""

NEEDED = ("http_stub_status_module", "http_upstream_zone_module", "http_upstream_keepalive_module", "http_map_module")

_ARGUMENT = re.compile(r"--with(?:out)?-[a-z0-9_-]+(?:=[A-Za-z0-9_=,.:/+@% -]{0,300})?")
_OURS = ("--with-cc=", "--with-cpp=")


FACTS: frozenset[str] = frozenset()
"""The parts of the host facts for the steps, see `facts.PARTS`: none. A build depends on the distribution alone."""


class PatchFile(Base):
    """A patch, or a series of patches."""

    url: Url
    """URL of a patch file, or of a tarball with `debian/patches/series`, whose URL ends in .tar.xz or .tar.gz."""
    sha256: Sha256
    """sha256 of the file."""


class NjsSource(Base):
    """The source of nginx' JavaScript module."""

    url: Url
    """URL of a tarball of the source of njs, 0.8.9 or later."""
    sha256: Sha256
    """sha256 of the tarball."""


class Settings(Base):
    """Build of nginx. Without a group `balancer` every gpu host has an nginx."""

    version: Version = "1.26.3"
    """Version to build. 1.26.3 is the last of its line and gets no more fixes; 1.30.7 has no known vulnerability
    (docs/facts.md#nginx-versions)."""
    accept_known_vulnerabilities: bool = Field(default=False, examples=[True])
    """Whether a version with known vulnerabilities may be built as published. Without `true`, `provision`
    refuses the version. `plan` and `verify` name accepted vulnerabilities in a single line."""
    sha256: Sha256 | None = None
    """sha256 of the tarball. Known for 1.26.3, 1.28.3, 1.30.4 and 1.30.5; needed for every other version."""
    url: Url | Literal[""] = ""
    """URL of the tarball, such as your mirror's. Empty: https://nginx.org/download/nginx-VERSION.tar.gz."""
    patches: tuple[PatchFile, ...] = Field(default=(), max_length=100)
    """Patches, applied in order before compiling, without fuzz. Debian's series is a single entry: the debian.tar.xz of
    its source package. `provision` cannot tell which vulnerabilities a patch closes: you vouch."""
    njs: NjsSource | None = None
    """Source of nginx' JavaScript module, compiled into nginx for `balancer.router: njs`. Null: the module of the
    distribution's package, which has to be for this version of nginx (1.26.3 on Debian 13)."""
    configure_args: tuple[Text, ...] = LEAN
    """Arguments of nginx's `configure`: `--with-...` and `--without-...`. Paths and user are provision's."""
    build: Literal["once", "each"] = "once"
    """`once`: compiled on one host per platform, and copied to the rest, which trust that host. `each`: on every
    balancer."""
    build_host: Name | Literal[""] = ""
    """The only host that may compile, with `build: once`. Empty: the first balancer of a run."""
    jobs: int = Field(default=0, ge=0, le=256)
    """How many compilers run at once. 0: one per processor."""
    log_days: int = Field(default=14, ge=1, le=3650)
    """How many daily access and error logs are kept."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield a version without a hash, and arguments reserved for provision."""
        if self.sha256 is None and self.version not in KNOWN:
            yield (
                ("sha256",),
                f"must be given for {self.version}, because it is known only for {', '.join(KNOWN)}",
            )
        if not re.fullmatch(r"1\.\d+\.\d+", self.version):
            yield ("version",), "must be a version of nginx, such as 1.26.3"
        elif vulnerabilities.release(self.version) < (1, 26, 0):
            yield ("version",), "must be 1.26.0 or later"
        sums = [patch.sha256 for patch in self.patches]
        for number, sha256 in enumerate(sums):
            if sha256 in sums[:number]:
                yield ("patches", number, "sha256"), f"is that of patches[{sums.index(sha256)}]: a patch applies once"
        for number, argument in enumerate(self.configure_args):
            yield from ((("configure_args", number), text) for text in _wrong(argument))

    def built(self, *, njs: bool) -> Source:
        """Return the source to build.

        Args:
            njs: whether nginx has the JavaScript module.
        """
        url = self.url or f"https://nginx.org/download/nginx-{self.version}.tar.gz"
        sha256 = self.sha256 or KNOWN[self.version]
        patches = tuple(Patch(url=patch.url, sha256=patch.sha256) for patch in self.patches)
        source = Source(version=self.version, sha256=sha256, url=url, arguments=self.configure_args, patches=patches)
        module = Njs(url=self.njs.url, sha256=self.njs.sha256) if self.njs else Njs()
        return replace(source, njs=module) if njs else source


def _wrong(argument: str) -> Iterator[str]:
    if not _ARGUMENT.fullmatch(argument) or argument.startswith(_OURS):
        yield "must be --with-NAME or --without-NAME, perhaps with =VALUE of letters, digits and _=,.:/+@%- only"
    if any(argument == f"--without-{name}" for name in NEEDED):
        yield "is needed by the balancer's configuration"


def _source(host: Host) -> Source:
    """Return the source that a balancer builds."""
    return host.of(Settings).built(njs=shared_settings.balancer(host).router == "njs")


def known_of(settings: Settings) -> list[str]:
    """Return the known vulnerabilities of the version and modules that the settings declare."""
    return vulnerabilities.known(settings.version, settings.configure_args)


def accepted(host: Host, inventory: Inventory) -> Iterator[str]:
    """Yield the known vulnerabilities that the operator of a balancer has accepted, or has patches for."""
    settings = host.of(Settings)
    names = known_of(settings) if is_balancing(host, inventory) else []
    if names and settings.patches:
        yield (
            f"nginx {settings.version} has {_counted(names)}, and is built with nginx.patches: provision checks that"
            " every hunk applies, and cannot tell which of the vulnerabilities the patches close"
        )
    elif names:
        yield (
            f"nginx {settings.version} has {_counted(names)}, accepted by nginx.accept_known_vulnerabilities: the"
            " configuration of the balancer uses little of what they need (docs/facts.md#nginx-versions)"
        )


def _counted(names: Sequence[str], most: int = 3) -> str:
    """Return how many vulnerabilities there are, with the newest names."""
    shown = ", ".join(reversed(names[-most:])) + (" and others" if len(names) > most else "")
    return f"{len(names)} known vulnerabilities ({shown})" if len(names) != 1 else f"a known vulnerability ({shown})"


def _is_refused(host: Host, inventory: Inventory) -> bool:
    """Return whether a balancer would build a version with known vulnerabilities that nobody accepted."""
    settings = host.of(Settings)
    agreed = settings.accept_known_vulnerabilities or settings.patches
    return is_balancing(host, inventory) and not agreed and len(known_of(settings)) > 0


def _refusal(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield the refusal of a version, once for all balancers that would build the same source."""
    if not _is_refused(host, inventory):
        return
    settings = host.of(Settings)
    builders = [builder for builder in inventory.hosts if _source(builder) == _source(host)]
    refused = [builder.name for builder in builders if _is_refused(builder, inventory)]
    if refused[0] == host.name:
        others = f" and on {len(refused) - 1} more" if len(refused) > 1 else ""
        message = (
            f"nginx {settings.version} on {host.name}{others} has known vulnerabilities:"
            f" {', '.join(known_of(settings))}. Three ways out: nginx.version {vulnerabilities.MENDED},"
            " which mends the vulnerabilities and which `provision nginx pin` writes; nginx.patches, which"
            " close the vulnerabilities; or nginx.accept_known_vulnerabilities: true"
        )
        yield host.problem("nginx", ("version",), message)


def problems(host: Host, inventory: Inventory) -> Iterator[Problem]:
    """Yield a version with known vulnerabilities that nobody accepted, and a build host that is no balancer."""
    yield from _refusal(host, inventory)
    name = host.of(Settings).build_host
    users = [other.name for other in inventory.hosts if is_balancing(other, inventory)]
    if is_balancing(host, inventory) and name and name not in users:
        yield host.problem("nginx", ("build_host",), f"must be one of the balancers: {', '.join(users)}")


def mirrored(settings: Settings, mirrors: shared_settings.MirrorSettings) -> Mapping[str, Any]:
    """Return the address of the tarball at the mirror of nginx."""
    base = mirrors.nginx.rstrip("/")
    return {"url": f"{base}/nginx-{settings.version}.tar.gz" if base else ""}


def outside(host: Host, inventory: Inventory) -> Iterator[Outside]:
    """Yield the tarball of nginx and its patches."""
    if not is_balancing(host, inventory):
        return
    settings = host.of(Settings)
    source = _source(host)
    yield Outside(source.url, "source", shared_settings.mirror_key(host, "nginx", "url", "nginx"), source.url)
    if source.njs and source.njs.url:
        yield Outside(source.njs.url, "source", "nginx.njs.url", source.njs.url)
    for number, patch in enumerate(settings.patches):
        yield Outside(patch.url, "source", f"nginx.patches[{number}].url", patch.url)


def waits_for(host: Host, inventory: Inventory) -> str:
    """Return the host that alone compiles for this host (`build_host`)."""
    settings = host.of(Settings)
    return settings.build_host if settings.build == "once" and is_balancing(host, inventory) else ""


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """Yield the steps of nginx, without its configuration and its service: these are the balancer's."""
    if not is_balancing(host, inventory):
        return
    settings = host.of(Settings)
    source = _source(host)
    # openssl brings the libssl of its release, whose package name differs between releases.
    runtime = ["ca-certificates", "curl", "libpcre2-8-0", "logrotate", "openssl", "zlib1g"]
    runtime += ["libxml2"] if source.module else []  # which the packaged JavaScript module needs
    yield Packages(name="nginx", packages=dict.fromkeys(runtime))
    account = Account(name=USER)
    yield account
    # Workers may enter the folder and not write to it: an attacker in a worker plants no links for root to open.
    yield Directory(path=LOGS, mode=0o750, owner=f"root:{USER}", after=(account.id,))
    yield Directory(path=CACHE, mode=0o700, owner=f"{USER}:root", after=(account.id,))
    yield Build(source=source, mode=settings.build, host=settings.build_host, jobs=settings.jobs)
    yield Link(path=CURRENT, target=source.prefix)
    yield Program(name="nginx", target=f"{CURRENT}/sbin/nginx")
    yield File(path="/etc/logrotate.d/provision-nginx", content=render("nginx/logrotate.j2", days=settings.log_days))
    yield Unit(
        name=UNIT, content=render("nginx/provision-nginx.service.j2", engine=engines.behind(host, inventory)[0].title)
    )


# The service first, then everything below it. Logs stay: logs are the operator's.
OWNED: tuple[Owned, ...] = (
    OwnedUnits(prefix="provision-nginx"),
    OwnedFiles(globs=("/etc/logrotate.d/provision-nginx",)),
    OwnedPrograms(names=("nginx",)),
    OwnedLinks(paths=(CURRENT,)),
    OwnedBuilds(),
    OwnedAccounts(),
)
