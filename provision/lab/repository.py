"""Signed apt repositories, written by hand: an index of the packages, its hashes, and a signature."""

import gzip
import hashlib
from datetime import UTC, datetime
from pathlib import Path

from provision.lab import keys
from provision.lab.shell import output


def flat(root: Path, fingerprint: str, origin: str) -> None:
    """Make the .deb files of a directory a flat repository (source line `deb URL /`), as NVIDIA's is."""
    _write_packages(root, root, root)
    _write_release(root, ["Packages", "Packages.gz"], fingerprint, {"Origin": origin, "Label": origin})


def suite(root: Path, codename: str, architecture: str, fingerprint: str, origin: str) -> None:
    """Make the .deb files of `root`/pool a repository with one suite and the component `stable`, as Docker's is."""
    top = root / "dists" / codename
    index = f"stable/binary-{architecture}"
    _write_packages(root / "pool", root, top / index)
    fields = {
        "Origin": origin,
        "Label": origin,
        "Suite": codename,
        "Codename": codename,
        "Architectures": architecture,
        "Components": "stable",
    }
    _write_release(top, [f"{index}/Packages", f"{index}/Packages.gz"], fingerprint, fields)


def _write_packages(pool: Path, root: Path, index: Path) -> None:
    index.mkdir(parents=True, exist_ok=True)
    stanzas = [_stanza(package, root) for package in sorted(pool.glob("*.deb"))]
    text = "\n".join(stanzas).encode()
    (index / "Packages").write_bytes(text)
    (index / "Packages.gz").write_bytes(gzip.compress(text, mtime=0))


def _stanza(package: Path, root: Path) -> str:
    data = package.read_bytes()
    control = output(["dpkg-deb", "--field", package])
    return (
        f"{control}\nFilename: {package.relative_to(root)}\nSize: {len(data)}\n"
        f"SHA256: {hashlib.sha256(data).hexdigest()}\n"
    )


def _write_release(top: Path, files: list[str], fingerprint: str, fields: dict[str, str]) -> None:
    hashes = []
    for name in files:
        data = (top / name).read_bytes()
        hashes.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n")
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S UTC")
    head = "".join(f"{key}: {value}\n" for key, value in {**fields, "Date": date}.items())
    release = top / "Release"
    release.write_text(f"{head}SHA256:\n{''.join(hashes)}")
    keys.sign(release, fingerprint)
