"""The site: the lab's stand-in for the internet. Made once per release, served inside the lab only.

http://SITE/docker                the lab's copy of Docker's apt repository (the distribution's Docker)
http://SITE/libnvidia-container   NVIDIA's apt repository (simulated toolkit)
http://SITE/nginx                 the real nginx tarball
http://SITE:5000                  an image registry with ollama/ollama (simulated)
SITE:5001                         a model registry with the library's models (simulated); their bytes come from a second
                                  address, on port 5002
http://SITE:3142                  a caching proxy to the machine's package mirror, for the hosts' apt
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provision.lab import base, cgroups, debs, keys, machine, models, paths, registry, repository
from provision.lab.base import discard
from provision.lab.fetch import Archive
from provision.lab.network import Network
from provision.lab.shell import LabError, start
from provision.lab.waiting import wait_for_port

# Debian's source package of this release carries nginx 1.26.3, byte for byte upstream's
_NGINX_RELEASE = "trixie"
_NGINX_SHA256 = {"1.26.3": "69ee2b237744036e61d24b836668aad3040dda461fe6f570f1787eab570c75aa"}


def ensure(release: str, say: Callable[[str], None], packages: str = "") -> None:
    """Make the site's files for hosts of `release`, unless the cache has files from the same sources.

    Args:
        release: release of the hosts.
        say: called with a line before a long step.
        packages: a folder of .deb files for the repository of Docker, beside the lab's own; empty for none.

    Raises:
        LabError: the machine's mirror lacks a part, or the folder has no package.
    """
    if packages and not _further(packages):
        raise LabError(f"the folder {packages} has no .deb file", "name the folder with Docker's packages")
    root = paths.site(release, packages)
    marker = root / ".made-of"
    recipe = _recipe(packages)
    if marker.exists() and marker.read_text() == recipe:
        return
    say("making the lab's package repositories (once; half a minute)")
    partial = root.with_name(f"{root.name}.partial")
    discard(partial)
    partial.mkdir(parents=True)
    facts = {"nginx": _nginx(release, partial / "nginx")}
    _docker(release, partial / "docker", _further(packages))
    _toolkit(partial / "libnvidia-container")
    (partial / "facts.json").write_text(json.dumps(facts))
    (partial / ".made-of").write_text(recipe)
    discard(root)
    partial.rename(root)


def start_servers(network: Network, home: Path, release: str, packages: str = "") -> None:
    """Start the site's servers in the lab's namespace. The registry may still be without its images.

    Args:
        network: network of the lab.
        home: folder of the lab.
        release: release of the hosts.
        packages: see `ensure`.
    """
    if not cgroups.processes(network.lab, "site"):
        joined = cgroups.make(network.lab, "site")
        enter = ["nsenter", f"--net={paths.NETNS / network.netns}", "--", *_with_resolver(home)]
        web = [sys.executable, "-I", str(Path(__file__).with_name("serve.py")), network.site]
        served = [str(paths.site(release, packages)), str(paths.CACHE / "packages")]
        start([*enter, *web, *served], cgroups=joined, log=home / "web.log")
        start([*enter, *registry.command(home, network.site, release)], cgroups=joined, log=home / "registry.log")
        start([*enter, *models.command(home, network)], cgroups=joined, log=home / "models.log")
    for port in (80, 3142, 5000, models.PORT):
        wait_for_port(network.site, port)


def _with_resolver(home: Path) -> list[str]:
    """Words that run a program with resolvers that a namespace can reach, where the machine asks its own loopback.

    Without such a loopback there are no words.
    """
    if machine.resolv_conf() == Path("/etc/resolv.conf").read_text():
        return []
    (home / "resolv.conf").write_text(machine.resolv_conf())
    mount = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return [
        "unshare",
        "--mount",
        "sh",
        "-c",
        mount,
        "sh",
        str(home / "resolv.conf"),
        str(Path("/etc/resolv.conf").resolve()),
    ]


def host_files(network: Network) -> dict[str, str]:
    """Files by which a host's apt uses the caching proxy (the site's own repositories are read directly)."""
    proxy = f'Acquire::http::Proxy "http://{network.site}:3142";\nAcquire::http::Proxy::{network.site} "DIRECT";\n'
    return {"etc/apt/apt.conf.d/91lab-proxy": proxy}


def settings(network: Network, release: str, packages: str = "") -> dict[str, Any]:
    """The role settings for the inventory that point at the site.

    Args:
        network: network of the lab.
        release: release of the hosts.
        packages: see `ensure`.
    """
    site = f"http://{network.site}"
    nginx = json.loads((paths.site(release, packages) / "facts.json").read_text())["nginx"]
    return {
        "docker": {
            "repository": f"{site}/docker",
            "key_fingerprint": keys.signing_key("Docker"),
            "registry_mirrors": [f"{site}:5000"],
        },
        "nvidia_toolkit": {
            "repository": f"{site}/libnvidia-container",
            "key_fingerprint": keys.signing_key("NVIDIA"),
            "version": debs.TOOLKIT_VERSIONS[0],
        },
        "ollama": {"image": "ollama/ollama:0.34.4", "models": ["deepseek-r1:1.5b"], "context_length": 4096},
        "nginx": {
            "version": nginx,
            "url": f"{site}/nginx/nginx-{nginx}.tar.gz",
            "accept_known_vulnerabilities": True,  # the mirror's 1.26.3 has some, and no lab is open to strangers
        },
    }


def _further(packages: str) -> list[Path]:
    return sorted(Path(packages).glob("*.deb")) if packages else []


def _recipe(packages: str) -> str:
    """A hash over all our sources that make the site, and over the names and bytes of further packages."""
    digest = hashlib.sha256()
    for package in _further(packages):
        digest.update(package.name.encode())
        digest.update(package.read_bytes())
    for path in [*sorted(paths.SIMULATED.glob("nvidia-*")), *map(Path, (__file__, debs.__file__, repository.__file__))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _nginx(release: str, target: Path) -> str:
    """Fetch the nginx tarball and return its version."""
    target.mkdir()
    origin = _NGINX_RELEASE if machine.distribution() == "debian" else release
    tarball = Archive(origin).source_tarball("nginx", target)
    version = tarball.name.split("_")[1].removesuffix(".orig.tar.gz")
    data = tarball.read_bytes()
    shutil.rmtree(target)
    target.mkdir()
    actual = hashlib.sha256(data).hexdigest()
    if _NGINX_SHA256.get(version, actual) != actual:
        raise LabError(f"the mirror's nginx {version} has sha256 {actual}, expected {_NGINX_SHA256[version]}")
    (target / f"nginx-{version}.tar.gz").write_bytes(data)
    return version


def _docker(release: str, target: Path, further: list[Path]) -> None:
    top = target / "linux" / machine.distribution()
    pool = top / "pool"
    pool.mkdir(parents=True)
    names = ["docker.io", "containerd", "runc"]
    if release not in {"bookworm", "jammy", "noble"}:
        names.append("docker-cli")
    work = target / ".originals"
    work.mkdir()
    release_info = dict(
        line.split("=", 1) for line in (base.path(release) / "etc/os-release").read_text().splitlines() if "=" in line
    )
    number = release_info["VERSION_ID"].strip('"')
    debs.docker(Archive(release).packages(names, work), f"1~{machine.distribution()}.{number}~{release}", pool)
    shutil.rmtree(work)
    for package in further:
        shutil.copyfile(package, pool / package.name)
    fingerprint = keys.signing_key("Docker")
    repository.suite(top, release, debs.architecture(), fingerprint, "Docker")
    (top / "gpg").write_text(keys.public_key(fingerprint))


def _toolkit(target: Path) -> None:
    top = target / "stable/deb" / debs.architecture()
    top.mkdir(parents=True)
    for version in debs.TOOLKIT_VERSIONS:
        for package in debs.toolkit(version):
            debs.build(package, top)
    fingerprint = keys.signing_key("NVIDIA")
    repository.flat(top, fingerprint, "NVIDIA simulated by provision lab")
    (target / "gpgkey").write_text(keys.public_key(fingerprint))
