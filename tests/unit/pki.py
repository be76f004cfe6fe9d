"""Certificates for tests: authorities, chains and keys, made while a test runs, so that no date of a file ends."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return pem_of(self.key)


def pem_of(key: Any, password: bytes = b"") -> bytes:
    """Return a key in PEM, encrypted with a password if there is one."""
    hidden = BestAvailableEncryption(password) if password else NoEncryption()
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden)
    return data


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def issued(
    name: str,
    issuer: Pair | None = None,
    *names: str,
    days: float = 90,
    begin: float = -1,
    key: Any = None,
    authority: bool = False,
) -> Pair:
    """Return a certificate.

    Args:
        name: common name.
        issuer: None for a certificate that signs itself.
        names: DNS names and addresses.
        days: days from now until the end.
        begin: days from now until the begin.
        key: the key; None for a new key on P-256.
        authority: whether the certificate may issue certificates.
    """
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(issuer.certificate.subject if issuer else named(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + dt.timedelta(days=min(begin, days - 1)))
        .not_valid_after(NOW + dt.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([general(each) for each in names]), critical=False)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


def general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def root(name: str = "root", days: float = 3650) -> Pair:
    return issued(name, days=days, authority=True)


def between(issuer: Pair, name: str = "between") -> Pair:
    return issued(name, issuer, authority=True)


def put(path: Path, *parts: bytes, mode: int = 0o600) -> Path:
    """Write parts of a file one after another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))
    path.chmod(mode)
    return path


ROOT = root()
LEAF = issued("lb", ROOT, "llm.example")
