"""The simulated ollama/ollama image: a small real root file system with Python, and our server on top."""

import base64
import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from provision.lab import debs, paths
from provision.lab.base import path as base_path
from provision.lab.shell import run

NAME = "ollama/ollama"
TAGS = ("0.34.4", "0.33.0")
# The packages that a shell and Python need of the base, each with its dependencies.
_ROOTS = ("python3", "dash", "coreutils", "base-files", "libc-bin")
# Dependencies that only matter while installing packages, or to parts of Python that the server does not use.
_LEFT_OUT = {
    "debconf",
    "dpkg",
    "perl-base",
    "tzdata",
    "media-types",
    "init-system-helpers",
    "python3-apt",
    "awk",
    "mawk",
}
_SKIPPED = (
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/locale",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/lib/python3/dist-packages",
    "/usr/share/python3",
    "/usr/lib/x86_64-linux-gnu/gconv",
    "/usr/share/perl5",
    "/var/lib/dpkg",
)
_ENV = (
    "PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64",
    "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    "NVIDIA_VISIBLE_DEVICES=all",
    "OLLAMA_HOST=0.0.0.0:11434",
)
# Without compiled modules every container would compile all modules at its first start: a third of a second.
_COMPILE = """
import base64, sys
from importlib import _bootstrap_external as made, util
name, source = sys.argv[1], sys.stdin.buffer.read()
code = compile(source, name, "exec", dont_inherit=True)
data = made._code_to_hash_pyc(code, util.source_hash(source), checked=False)
print(util.cache_from_source(name), base64.b64encode(data).decode())
"""


@dataclass(frozen=True)
class Image:
    """An image ready to be pushed.

    Args:
        tag: tag of the image.
        blobs: digest -> bytes of the layers and of the configuration.
        manifest: the manifest, as bytes.
    """

    tag: str
    blobs: dict[str, bytes]
    manifest: bytes


def build(tag: str, release: str) -> Image:
    """Make the image of one tag; the same sources give the same digests."""
    layers = [_base_layer(release), _server_layer(tag, release)]
    config = json.dumps(
        {
            "architecture": debs.architecture(),
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {
                "Env": list(_ENV),
                "Entrypoint": ["/bin/ollama"],
                "Cmd": ["serve"],
                "ExposedPorts": {"11434/tcp": {}},
                "Labels": {
                    "org.opencontainers.image.version": tag,
                    "org.opencontainers.image.description": "SIMULATED Ollama server of the provision lab",
                },
            },
            "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(layer)) for layer in layers]},
            "history": [{"created_by": "provision lab"} for _ in layers],
        }
    ).encode()
    kind = "application/vnd.docker."
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind + "distribution.manifest.v2+json",
        "config": _reference(kind + "container.image.v1+json", config),
        "layers": [_reference(kind + "image.rootfs.diff.tar.gzip", layer) for layer in layers],
    }
    blobs = {_digest(blob): blob for blob in [*layers, config]}
    return Image(tag, blobs, json.dumps(manifest).encode())


def sources() -> str:
    """A hash over all our sources in the image."""
    files = [Path(__file__), paths.SIMULATED / "ollama", *sorted(paths.SIMULATED.glob("ollama_*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _reference(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "size": len(data), "digest": _digest(data)}


def _server_layer(tag: str, release: str) -> bytes:
    files = {"usr/bin/ollama": (paths.SIMULATED / "ollama").read_bytes()}
    for module in sorted(paths.SIMULATED.glob("ollama_*.py")):
        name = f"usr/lib/ollama-simulated/ollama_simulated/{module.name}"
        files[name] = module.read_bytes()
        compiled, data = _compiled(base_path(release), name, module.read_text())
        files[compiled] = data
    files["usr/lib/ollama-simulated/version"] = tag.encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if name.endswith("bin/ollama") else 0o644
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def _compiled(base: Path, name: str, source: str) -> tuple[str, bytes]:
    """Name and bytes of a module as the image's Python compiles it."""
    words: list[str | Path] = ["chroot", base, "/usr/bin/python3", "-IS", "-c", _COMPILE, f"/{name}"]
    path, data = run(words, stdin=source).stdout.split()
    return path.lstrip("/"), base64.b64decode(data)


def _base_layer(release: str) -> bytes:
    kept = paths.CACHE / f"image-{release}-compiled.tar.gz"
    if not kept.exists():
        partial = kept.with_suffix(".partial")
        partial.write_bytes(gzip.compress(_base_tar(base_path(release)), 6, mtime=0))
        partial.rename(kept)
    return kept.read_bytes()


def _base_tar(base: Path) -> bytes:
    buffer = io.BytesIO()
    added: set[str] = set()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("bin", "sbin", "lib", "lib64", "etc/passwd", "etc/group", "tmp", "root", "etc/ld.so.cache"):
            _add(tar, base, name, added)
        for package in sorted(_closure(base)):
            for line in _listing(base, package):
                if line != "/." and not line.startswith(_SKIPPED):
                    for name in (line.lstrip("/"), *_beside(base, line)):
                        _add(tar, base, name, added)
    return buffer.getvalue()


def _beside(base: Path, line: str) -> list[str]:
    """The compiled files that the base has of a module; no package lists them."""
    path = base / line.lstrip("/")
    compiled = path.parent.glob(f"__pycache__/{path.stem}.*.pyc") if path.suffix == ".py" else ()
    return sorted(str(path.relative_to(base)) for path in compiled)


def _add(tar: tarfile.TarFile, base: Path, name: str, added: set[str]) -> None:
    path = base / name
    if name in added or not (path.is_symlink() or path.exists()):
        return
    # a package may own /lib/x where /lib is a link: the layer must hold the file once, below the link's target
    parent = (base / name).parent.resolve()
    real = str((parent / path.name).relative_to(base))
    if real in added:
        return
    added.update({name, real})
    info = tar.gettarinfo(base / real, arcname=real)
    info.uname, info.gname, info.type = "", "", info.type
    info.mtime = int(info.mtime) if real.endswith(".py") else 0  # the compiled file names this time
    if info.isreg():
        with (base / real).open("rb") as source:
            tar.addfile(info, source)
    elif not info.islnk():
        tar.addfile(info)


def _listing(base: Path, package: str) -> list[str]:
    info = base / "var/lib/dpkg/info"
    for name in (f"{package}.list", f"{package}:{debs.architecture()}.list"):
        if (info / name).exists():
            return (info / name).read_text().splitlines()
    return []


def _closure(base: Path) -> set[str]:
    """The packages of `_ROOTS` and all their dependencies, by the base's own dpkg database."""
    depends = _dependencies(base / "var/lib/dpkg/status")
    closure: set[str] = set()
    wanted = list(_ROOTS)
    while wanted:
        name = wanted.pop()
        if name in depends and name not in closure and name not in _LEFT_OUT:
            closure.add(name)
            wanted.extend(depends[name])
    return closure


def _dependencies(status: Path) -> dict[str, list[str]]:
    result: dict[str, list[str]] = {}
    for stanza in status.read_text().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
        if "Package" in fields:
            text = ", ".join(fields.get(key, "") for key in ("Pre-Depends", "Depends"))
            names = [
                option.split()[0].split(":")[0]
                for part in text.split(",")
                for option in part.split("|")
                if option.strip()
            ]
            result[fields["Package"]] = names
    return result
