"""The site's image registry: Debian's docker-registry, taken from its package without an installation."""

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from provision.lab import image, paths
from provision.lab.base import discard
from provision.lab.emulation import machine_factor
from provision.lab.fetch import unpack
from provision.lab.shell import LabError, run

_PORT = 5000


def ensure() -> Path:
    """Return the registry program; fetch its package into the cache the first time.

    Raises:
        LabError: the machine's mirror has no docker-registry.
    """
    program = paths.CACHE / "registry/program/usr/bin/docker-registry"
    if not program.exists():
        # the machine's own release, not that of the hosts: the registry runs with the machine's C library
        work = paths.CACHE / "registry/download"
        discard(work)
        work.mkdir(parents=True)
        run(["apt-get", "-o", "APT::Sandbox::User=root", "download", "docker-registry"], cwd=work)
        unpack(next(work.glob("*.deb")), paths.CACHE / "registry/program")
        discard(work)
    return program


def _data(release: str) -> Path:
    # the image is made of the hosts' release, so that each release has tags of its own
    return paths.CACHE / "registry" / release


def command(home: Path, address: str, release: str) -> list[str]:
    """Write the registry's configuration into `home`, and return the words that start it on the site's address."""
    config = {
        "version": 0.1,
        "log": {"level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(_data(release))}},
        "http": {"addr": f"{address}:{_PORT}"},
    }
    (home / "registry.json").write_text(json.dumps(config))  # JSON is YAML
    return [str(ensure()), "serve", str(home / "registry.json")]


def publish(address: str, release: str) -> None:
    """Push every tag of the simulated image, unless the registry has the tags from the same sources.

    Raises:
        LabError: the registry refused.
    """
    marker = _data(release).with_suffix(".published")
    sources = image.sources()
    if marker.exists() and marker.read_text() == sources:
        return
    for tag in image.TAGS:
        built = image.build(tag, release)
        connection = http.client.HTTPConnection(address, _PORT, timeout=30 * machine_factor())
        kind = json.loads(built.manifest)["mediaType"]
        path = f"/v2/{image.NAME}/manifests/{tag}"
        status, _, data = _ask(connection, "GET", path, headers={"Accept": kind})
        if status == 200 and data == built.manifest:
            continue
        for digest, blob in built.blobs.items():
            _push_blob(connection, image.NAME, digest, blob)
        _put_manifest(connection, image.NAME, tag, built.manifest, kind)
    marker.write_text(sources)


def publish_model(address: str, name: str, tag: str, manifest: dict[str, Any], blobs: dict[str, bytes]) -> None:
    """Push a model of Ollama, as `ollama push` does. Ollama does not pull the model from here: the registry sends blobs
    without a redirect.

    Args:
        address: address of the site.
        name: namespace and name of the model.
        tag: tag of the model.
        manifest: the manifest.
        blobs: digest -> content of each blob.

    Raises:
        LabError: the registry refused.
    """
    connection = http.client.HTTPConnection(address, _PORT, timeout=30 * machine_factor())
    for digest, blob in blobs.items():
        _push_blob(connection, name, digest, blob)
    _put_manifest(connection, name, tag, json.dumps(manifest).encode(), manifest["mediaType"])


def _put_manifest(connection: http.client.HTTPConnection, name: str, tag: str, manifest: bytes, kind: str) -> None:
    path = f"/v2/{name}/manifests/{tag}"
    status, _, data = _ask(connection, "PUT", path, manifest, {"Content-Type": kind})
    if status != 201:
        raise LabError(f"the lab's registry refused {name}:{tag}: {status} {data.decode()}")


def _push_blob(connection: http.client.HTTPConnection, name: str, digest: str, blob: bytes) -> None:
    base = f"/v2/{name}/blobs"
    if _ask(connection, "HEAD", f"{base}/{digest}")[0] == 200:
        return
    _, headers, _ = _ask(connection, "POST", f"{base}/uploads/")
    place = urlsplit(headers["Location"])
    target = f"{place.path}?{place.query}&digest={digest}"
    status, _, data = _ask(connection, "PUT", target, blob, {"Content-Type": "application/octet-stream"})
    if status != 201:
        raise LabError(f"the lab's registry refused {digest}: {status} {data.decode()}")


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection.request(method, path, body=body, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()
