"""An authority of one's own: a folder on this machine with a key, a certificate, and a certificate for each balancer.

FOLDER/ca.pem               for clients to trust
FOLDER/ca.key               0600: whoever has the key can pretend to be any server to these clients
FOLDER/balancers/HOST.pem   the certificate of a balancer
FOLDER/balancers/HOST.key   its key, 0600
FOLDER/.gitignore           keeps keys out of a repository
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from provision.certificates import chain
from provision.certificates.chain import UnusableError
from provision.errors import UsageError
from provision.inventory import Secret

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CERTIFICATE, KEY, BALANCERS, IGNORE = "ca.pem", "ca.key", "balancers", ".gitignore"
DAYS = 90
"""Life of a balancer's certificate: Mozilla's guidelines 6.0, docs/facts.md#tls."""
AUTHORITY_DAYS = 3650
LONGEST_NAME = 64  # bytes of a common name: RFC 5280, appendix A, ub-common-name
EARLY = dt.timedelta(hours=1)  # clocks of clients may be late
LARGEST = 1 << 20  # bytes of a file
IGNORED = "# Keys stay out of the repository: keep a copy of ca.key where you keep secrets.\n*.key\n"


def make(folder: Path, name: str, now: dt.datetime) -> Path:
    """Make an authority: its key and its certificate, ECDSA on P-256.

    Args:
        folder: the folder; made if missing.
        name: common name of the certificate.
        now: the present time.

    Returns:
        the path of the certificate.

    Raises:
        UsageError: the folder has an authority, or cannot be written.
    """
    present = [path for path in (folder / KEY, folder / CERTIFICATE) if path.exists()]
    if present:
        raise UsageError(
            f"{present[0]} exists already, and nothing overwrites an authority: clients would lose their trust",
            "give another folder by --folder, or go on with this one: `provision ca renew`",
        )
    key, certificate = _authority(name, now)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / KEY, _pem_of_key(key), 0o600, new=True)
        _write(folder / CERTIFICATE, _pem_of(certificate), 0o644, new=True)
        if not (folder / IGNORE).exists():
            _write(folder / IGNORE, IGNORED.encode(), 0o644, new=True)
    except OSError as error:
        raise UsageError(f"{error.filename or folder} cannot be written: {error.strerror}") from None
    return folder / CERTIFICATE


def issue(folder: Path, host: str, names: Sequence[str], now: dt.datetime) -> tuple[bytes, Secret]:
    """Issue a certificate for a balancer. Writes nothing.

    Args:
        folder: the folder of the authority.
        host: name of the balancer.
        names: DNS names and addresses of the balancer.
        now: the present time.

    Returns:
        the certificate and its key, both in PEM.

    Raises:
        UnusableError: the authority's key is not here, or unusable.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    issuer = certificate_of(folder)
    issuer_key = chain.private_key(read_key(folder / KEY))
    if not chain.is_of(issuer, issuer_key):
        raise UnusableError(f"is the key of another authority: it does not belong to {CERTIFICATE} beside it")
    key = ec.generate_private_key(ec.SECP256R1())
    until = min(now + dt.timedelta(days=DAYS), issuer.not_valid_after_utc)
    signed = _builder(host[:LONGEST_NAME], issuer.subject, key, now, until)
    leaf = _as_server(signed, names, issuer).sign(issuer_key, _sha256())
    return _pem_of(leaf), Secret(_pem_of_key(key).decode())


def keep(folder: Path, host: str, certificate: bytes, key: Secret) -> Path:
    """Write the certificate of a balancer and its key into the folder of the authority.

    Args:
        folder: the folder of the authority.
        host: name of the balancer.
        certificate: in PEM.
        key: in PEM.

    Returns:
        the path of the certificate.

    Raises:
        UsageError: the files cannot be written.
    """
    at_key, at_certificate = (kept_at(folder, host, kind) for kind in ("key", "pem"))
    try:
        at_key.parent.mkdir(mode=0o700, exist_ok=True)
        _write(at_key, key.reveal().encode(), 0o600)
        _write(at_certificate, certificate, 0o644)
    except OSError as error:
        raise UsageError(f"{error.filename or at_key} cannot be written: {error.strerror}") from None
    return at_certificate


def kept_at(folder: Path, host: str, kind: str) -> Path:
    """Return the path of a balancer's file.

    Args:
        folder: the folder of the authority.
        host: name of the balancer.
        kind: `pem` for the certificate, `key` for its key.
    """
    return folder / BALANCERS / f"{host}.{kind}"


def certificate_of(folder: Path) -> Certificate:
    """Return the certificate of an authority.

    Raises:
        UnusableError: the folder has none.
    """
    try:
        found = chain.certificates(read(folder / CERTIFICATE))
    except UnusableError as error:
        raise UnusableError(
            f"has no authority: {folder / CERTIFICATE} {error}. `provision ca init` makes one"
        ) from None
    return found[0]


def read(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        UnusableError: the file cannot be read, is no plain file, or is too large.
    """
    try:
        if not path.is_file():
            raise UnusableError("is not there")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise UnusableError(f"cannot be read: {getattr(error, 'strerror', '') or type(error).__name__}") from None
    if len(data) > LARGEST:
        raise UnusableError(f"is larger than {LARGEST >> 20} MiB")
    return data


def read_key(path: Path) -> bytes:
    """Return the bytes of a file with a key.

    Raises:
        UnusableError: see `read`; also if every user of this machine may read or write the file.
    """
    data = read(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o007:
        raise UnusableError(f"is open to every user of this machine (mode {mode:04o}): `chmod 600 {path}`")
    return data


def _authority(name: str, now: dt.datetime) -> tuple[Any, Certificate]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(name, _named(name), key, now, now + dt.timedelta(days=AUTHORITY_DAYS))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return key, builder.sign(key, _sha256())


def _builder(name: str, issuer: Any, key: Any, now: dt.datetime, until: dt.datetime) -> Any:
    """Return what all certificates of an authority have in common."""
    from cryptography import x509

    builder = x509.CertificateBuilder().subject_name(_named(name)).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - EARLY).not_valid_after(until)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _as_server(builder: Any, names: Sequence[str], issuer: Certificate) -> Any:
    """Add the names and the uses of a server. Strict clients ask for the key of the issuer too (RFC 5280 4.2.1.1)."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    listed = x509.SubjectAlternativeName([_general(name) for name in names])
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    builder = builder.add_extension(listed, critical=False).add_extension(above, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    return builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)


def _general(name: str) -> Any:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _named(name: str) -> Any:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _usage(*, signs_certificates: bool) -> Any:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sha256() -> Any:
    from cryptography.hazmat.primitives import hashes

    return hashes.SHA256()


def _pem_of(certificate: Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _pem_of_key(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return data


def _write(path: Path, data: bytes, mode: int, *, new: bool = False) -> None:
    """Write a file under another name, and give it its name last. A file that must be new is never replaced."""
    aside = path.with_name(f".{os.getpid()}.{path.name}")  # .gitignore has a key under this name too
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        if new:
            os.link(aside, path)
        else:
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
