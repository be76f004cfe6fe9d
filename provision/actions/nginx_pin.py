"""Pin a version of nginx, or Debian's patches of a version: fetch, verify the signature, write into the inventory."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provision.artifacts.signed import Signer

TARBALL = "https://nginx.org/download/nginx-{version}.tar.gz"
PATCHED = "1.26.3"
"""The version that Debian 13 patches."""
REVISION = "3+deb13u11"
"""The revision of 2026-11-19 in Debian 13 (docs/facts.md#nginx-versions). The address was not tried here."""
SOURCE = "https://security.debian.org/debian-security/pool/updates/main/n/nginx/nginx_{version}-{revision}.dsc"
DEBIAN_KEYS = "/usr/share/keyrings/debian-keyring.gpg"
"""Keys of Debian's developers, of Debian's package debian-keyring."""
_LARGEST = 32 << 20
_SMALL = 1 << 18


@dataclass(frozen=True)
class Wish:
    """What to pin.

    Args:
        inventory: the inventory file to write into.
        version: the version of nginx; empty for Debian's patches of 1.26.3.
        keys: file of the keys that may sign; empty for the keys of Debian's developers, with Debian's patches alone.
        url: address of the tarball, whose signature is beside it with `.asc`; of Debian's patches, address of the
            .dsc. Empty for the maker's address.
        write: whether to write into the inventory.
        silence: longest time without an answer, in seconds.
        gpg: the program that judges signatures.
    """

    inventory: str
    version: str = ""
    keys: str = ""
    url: str = ""
    write: bool = True
    silence: float = 20.0
    gpg: str = "gpg"


@dataclass(frozen=True)
class Pinned:
    """The result of a pin.

    Args:
        values: setting of nginx -> the value, as written into the inventory.
        place: path of the settings in the inventory.
        signer: the maker of the signature.
        diff: the change of the inventory.
        patches: the patches of a series, in order.
        named: known vulnerabilities of the version that the patches name.
        unnamed: known vulnerabilities of the version that no patch names.
        remarks: sentences for the operator.
    """

    values: Mapping[str, Any]
    place: str
    signer: Signer
    diff: Sequence[str]
    patches: Sequence[str] = ()
    named: Sequence[str] = ()
    unnamed: Sequence[str] = ()
    remarks: Sequence[str] = ()


def pin(wish: Wish) -> Pinned:
    """Fetch what to pin, verify the signature, and write address and sha256 into the inventory.

    Args:
        wish: see `Wish`.

    Raises:
        UsageError: the wish cannot be fulfilled: no keys, no GnuPG, an inventory beyond an edit.
        InventoryError: the inventory would have problems after the edit.
        UnreachableError: a file cannot be fetched.
        GuardError: a signature or a file is not as it has to be. In all cases nothing was written.
    """
    from provision.errors import UsageError
    from provision.inventory.types import is_url

    if wish.url and not is_url(wish.url):
        raise UsageError(f"--url must be an http:// or https:// URL, not {wish.url[:200]!r}")
    found = _version(wish) if wish.version else _series(wish)
    return _written(wish, found)


def _version(wish: Wish) -> Pinned:
    """Return the pin of a version, not written yet."""
    import re

    from provision.artifacts import signed
    from provision.errors import UsageError

    if not re.fullmatch(r"1\.\d{1,4}\.\d{1,4}", wish.version):
        raise UsageError(f"{wish.version[:60]!r} is no version of nginx", "give a version such as 1.30.7")
    if not wish.keys:
        hint = (
            "get the keys from nginx.org/keys/, compare their fingerprints with a second source, and give --keys FILE"
        )
        raise UsageError("--keys is missing: a signature proves nothing without keys that you trust", hint)
    url = wish.url or TARBALL.format(version=wish.version)
    data = signed.fetch(url, _LARGEST, b"\x1f\x8b", "a tarball", silence=wish.silence)
    armor = signed.fetch(f"{url}.asc", _SMALL, b"-----BEGIN PGP", "a signature", silence=wish.silence)
    signer = signed.detached(data, armor, Path(wish.keys), wish.gpg)
    _is_version(data, wish.version, url)
    values = {"version": wish.version, "url": url, "sha256": hashlib.sha256(data).hexdigest()}
    return Pinned(values, "", signer, ())


def _is_version(data: bytes, version: str, url: str) -> None:
    """Refuse a signed tarball of another version: an old release with vulnerabilities is signed too."""
    import io
    import tarfile

    from provision.errors import GuardError

    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            first = tar.next()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise GuardError(f"{url} cannot be read: {error}") from None
    name = first.name.partition("/")[0] if first else ""
    if name != f"nginx-{version}":
        raise GuardError(
            f"{url} is a signed tarball of {name[:60]!r}, and not of nginx-{version}", "nothing was written"
        )


def _series(wish: Wish) -> Pinned:
    """Return the pin of Debian's patches, not written yet."""
    from provision.artifacts import debian_source, signed
    from provision.errors import GuardError, UsageError
    from provision.plan import role_interface
    from provision.steps.nginx import vulnerabilities

    role = role_interface.role("nginx")
    keys = Path(wish.keys or DEBIAN_KEYS)
    if not wish.keys and not keys.is_file():
        raise UsageError(
            f"there are no keys of Debian's developers: {keys} is missing", "apt-get install debian-keyring"
        )
    url = wish.url or SOURCE.format(version=PATCHED, revision=REVISION)
    text = signed.fetch(url, _SMALL, b"-----BEGIN PGP SIGNED MESSAGE", "a signed .dsc", silence=wish.silence)
    part, signer = signed.clear(text, keys, wish.gpg)
    package = debian_source.parse(part.decode(errors="replace"))
    if package.source != "nginx" or not package.version.startswith(f"{PATCHED}-"):
        raise GuardError(f"{url} is of {package.source} {package.version}, and not of nginx {PATCHED}")
    if package.sha256[package.file(".orig.tar.gz")] != role.KNOWN[PATCHED]:
        raise GuardError(f"the source of {url} is not the published nginx {PATCHED}: the patches may not apply")
    name = package.file(".debian.tar.xz")
    archive = f"{url.rpartition('/')[0]}/{name}"
    data = signed.fetch(archive, _LARGEST, b"\xfd7zXZ\x00", "a tarball of xz", silence=wish.silence)
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != package.sha256[name]:
        raise GuardError(f"{archive} has sha256 {sha256}, and the signed .dsc says {package.sha256[name]}")
    patches, cves = debian_source.patches(data)
    known = vulnerabilities.known(PATCHED, role.LEAN)
    named, unnamed = ([cve for cve in known if (cve in cves) is inside] for inside in (True, False))
    values = {"patches": [{"url": archive, "sha256": sha256}]}
    return Pinned(values, "", signer, (), patches, named, unnamed)


def _written(wish: Wish, found: Pinned) -> Pinned:
    """Edit the inventory, load the edited inventory, and write the file last."""
    from provision.errors import UsageError
    from provision.inventory.edit import with_settings

    path = Path(wish.inventory).resolve()
    try:
        old = path.read_bytes().decode()  # with the ends of lines as they are
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{wish.inventory} cannot be read: {error}", "give an inventory in YAML by -i") from None
    edit = with_settings(old, "nginx", found.values)
    new = path.with_name(f".{path.stem}.pinned-{os.getpid()}.yaml")
    try:
        _copied(path, new, edit.text.encode())
        remarks = _remarks(new, wish, found)
        if wish.write and edit.text != old:
            new.replace(path)
    except OSError as error:
        raise UsageError(f"{wish.inventory} cannot be written: {error}") from None
    finally:
        new.unlink(missing_ok=True)
    lines = difflib.unified_diff(old.splitlines(), edit.text.splitlines(), lineterm="", n=1)
    return dataclasses.replace(found, place=edit.place, diff=tuple(lines)[2:], remarks=remarks)


def _copied(path: Path, new: Path, data: bytes) -> None:
    """Write a file with owner and mode of another file. The inventory may hold passwords, so nobody else reads the new
    file in between."""
    there = path.stat()
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), there.st_uid, there.st_gid)
        os.fchmod(file.fileno(), there.st_mode & 0o7777)


def _remarks(edited: Path, wish: Wish, found: Pinned) -> tuple[str, ...]:
    """Load the edited inventory. Returns sentences about balancers that get something else than the pinned files.

    Raises:
        InventoryError: the edited inventory has problems.
        UsageError: a balancer has other settings than those written, from another file or a group further inside.
    """
    from provision.errors import InventoryError, UsageError
    from provision.inventory import topology
    from provision.plan import role_interface

    try:
        inventory = role_interface.load(str(edited))
    except InventoryError as error:
        problems = [
            dataclasses.replace(problem, file=wish.inventory) if problem.file == str(edited) else problem
            for problem in error.problems
        ]
        raise InventoryError(problems, error.warnings) from None
    balancers = [host for host in inventory.hosts if topology.is_balancing(host, inventory)]
    settings = {host.name: host.settings["nginx"].model_dump(mode="json") for host in balancers}
    other = [name for name, own in settings.items() if {key: own[key] for key in found.values} != found.values]
    if other:
        raise UsageError(
            f"nothing was written: {', '.join(other[:6])} would keep settings of another file or group",
            f"write {', '.join(found.values)} of nginx there by hand",
        )
    if "patches" in found.values:
        wrong = [name for name, own in settings.items() if own["version"] != PATCHED]
        if wrong:
            raise UsageError(
                f"nothing was written: {', '.join(wrong[:6])} builds another version than {PATCHED}, and the patches"
                f" are for {PATCHED}",
                f"set nginx.version to {PATCHED}",
            )
        return ()
    patched = [name for name, own in settings.items() if own["patches"]]
    text = f"nginx.patches of {', '.join(patched[:6])} stays: take the key away if the patches are for another version"
    return (text,) if patched else ()
