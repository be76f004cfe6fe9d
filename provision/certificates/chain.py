"""Certificates in PEM: their names and ends, and whether a chain, a key and an authority belong together.

The judgement is by hand, and not by a verifier with the rules of public authorities: authorities of companies follow
fewer rules. Sources: RFC 5280 4.1.2.5, 4.2.1.6 and 4.2.1.9; RFC 6125 6.4.3 for names with `*`; RFC 8446 4.4.2 for the
order of a chain.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from provision.inventory.types import is_host

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""The curves of certificates that clients know: RFC 8446 4.2.3. OpenSSL's client refuses others by default."""
LEAST_BITS = 2048
"""Bits of an RSA key, at least: OpenSSL's security level 2, Debian's default, refuses shorter keys."""
_KEY = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)


class UnusableError(Exception):
    """A file is no certificate or key that a server can use. The message says why, and what to do."""


def certificates(data: bytes) -> tuple[Certificate, ...]:
    """Return all certificates of a file in PEM, in the order of the file.

    Args:
        data: the bytes of the file.

    Raises:
        UnusableError: the file has no certificate, or a garbled certificate.
    """
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise UnusableError("holds no certificate in PEM: it must have a line -----BEGIN CERTIFICATE-----")
    try:
        found = tuple(x509.load_pem_x509_certificates(data))
        for certificate in found:
            # parsed late, and then refused
            _ = certificate.extensions, certificate.subject, certificate.issuer, certificate.public_key()
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc  # a year 0 is no year to Python
    except (
        *(ValueError, UnsupportedAlgorithm),
        *(x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType),
    ) as error:
        raise UnusableError(f"holds a certificate that cannot be read: {_short(error)}") from None
    return found


def private_key(data: bytes) -> Any:
    """Return the private key of a file in PEM.

    Args:
        data: the bytes of the file.

    Raises:
        UnusableError: the file has no key for a server, or an encrypted key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise UnusableError(
            "is encrypted, and nobody types its password when the balancer boots: write the key without a password,"
            " `openssl pkey -in KEY -out NEW`, into a file of mode 0600"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableError("holds no private key in PEM: it must have a line -----BEGIN PRIVATE KEY-----") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise UnusableError("must be a key of RSA or of an elliptic curve, such as P-256: clients know no other")
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name not in CURVES:
        raise UnusableError(f"has the curve {key.curve.name}, which clients refuse: make a key on P-256")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < LEAST_BITS:
        raise UnusableError(f"has {key.key_size} bits, and clients refuse less than {LEAST_BITS}: make a new key")
    return key


def key_alone(data: bytes) -> bytes:
    """Return the first private key of a file in PEM, without blanks: OpenSSL reads no key behind blanks.

    Args:
        data: the bytes of a file with a key.
    """
    found = _KEY.search(data)
    return b"".join(line.strip() + b"\n" for line in found[0].splitlines()) if found else data


def names(certificate: Certificate) -> tuple[str, ...]:
    """Return the DNS names and addresses of a certificate, in its order. Clients look at no other name. A text that is
    no name of a host is left out: names go into files and messages."""
    from cryptography import x509

    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    texts = (str(name.value) for name in listed if isinstance(name, x509.DNSName | x509.IPAddress))
    return tuple(text for text in texts if is_host(text.removeprefix("*.")))


def plain(name: str) -> str:
    """Return a name or an address as certificates have it: without a dot at the end, an address in its short form.

    Args:
        name: a DNS name, or an address.
    """
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.rstrip(".")


def covers(listed: Sequence[str], name: str) -> bool:
    """Return whether the names of a certificate include a name or an address.

    Args:
        listed: the names of the certificate. `*.example` stands for one label.
        name: a DNS name, or an address.
    """
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        plain = name.rstrip(".").lower()
        parents = {f"*.{plain.partition('.')[2]}"} if "." in plain else set()
        return bool({text.lower() for text in listed} & {plain, *parents})
    return any(text == str(address) for text in listed)


def end(chain: Sequence[Certificate]) -> dt.datetime:
    """Return the time when the first certificate of a chain ends."""
    return min(certificate.not_valid_after_utc for certificate in chain)


def ends_of(data: bytes) -> dt.datetime | None:
    """Return the time when the first certificate of a file ends; None for a file without a readable certificate."""
    try:
        return end(certificates(data))
    except UnusableError:
        return None


def wrong_chain(chain: Sequence[Certificate], key: Any, now: dt.datetime) -> Iterator[str]:
    """Yield why a server cannot use a chain with a key. An ended certificate is no such reason.

    Args:
        chain: the certificates of a file; the certificate of the server has to be the first.
        key: the private key, or None for no look at the key.
        now: the present time.
    """
    own = [number for number, each in enumerate(chain) if key is not None and is_of(each, key)]
    if key is not None and not own:
        yield (
            "is not the certificate of the key: their public keys differ. `openssl x509 -noout -pubkey -in CERTIFICATE`"
            " and `openssl pkey -pubout -in KEY` print both"
        )
    elif own and own[0] != 0:
        yield (
            f"has its chain in the wrong order: certificate {own[0] + 1} of the file is that of the key, and has to be"
            " the first; its issuer follows, then the issuer of that one"
        )
    else:
        yield from _wrong_links(chain)
    early = [each for each in chain if each.not_valid_before_utc > now]
    if early:
        yield f"is not valid before {day(early[0].not_valid_before_utc)}: is the clock of this machine right?"


def is_of(certificate: Certificate, key: Any) -> bool:
    """Return whether a certificate is that of a private key."""
    return bool(certificate.public_key() == key.public_key())


def _wrong_links(chain: Sequence[Certificate]) -> Iterator[str]:
    """Yield the first certificate of a chain whose issuer does not follow."""
    for number, (below, above) in enumerate(pairwise(chain), start=1):
        if not is_issued_by(below, above):
            yield (
                f"has its chain in the wrong order: certificate {number + 1} of the file did not issue certificate"
                f" {number}. The certificate of the server comes first, then its issuer, then the issuer of that one"
            )
            return
    if chain and is_authority(chain[0]):
        yield "begins with the certificate of an authority, and not with that of a server"


def is_issued_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Return whether the key of an issuer signed a certificate, under the issuer's name."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return is_authority(issuer)


def is_authority(certificate: Certificate) -> bool:
    """Return whether a certificate may issue certificates."""
    from cryptography import x509

    try:
        return bool(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
    except x509.ExtensionNotFound:
        return False


def wrong_authorities(authorities: Sequence[Certificate]) -> Iterator[str]:
    """Yield every certificate that may issue nothing. An ended authority is no such certificate: see `last_end`.

    Args:
        authorities: the certificates of a file.
    """
    for certificate in authorities:
        if not is_authority(certificate):
            yield f"has a certificate that is not that of an authority: {subject(certificate)}"


def last_end(authorities: Sequence[Certificate]) -> dt.datetime:
    """Return the time when the last of some authorities ends: beside a new authority, an old one may end.

    Args:
        authorities: at least one certificate.
    """
    return max(certificate.not_valid_after_utc for certificate in authorities)


def is_trusted(chain: Sequence[Certificate], authorities: Sequence[Certificate]) -> bool:
    """Return whether a chain leads to one of some authorities.

    Args:
        chain: certificates in the right order.
        authorities: the certificates that clients trust.
    """
    return any(last == each or is_issued_by(last, each) for last in chain for each in authorities)


def subject(certificate: Certificate) -> str:
    """Return the subject of a certificate, clipped, without control characters."""
    text = certificate.subject.rfc4514_string() or "no subject"
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:120]


def fingerprint(certificate: Certificate) -> str:
    """Return the sha256 of a certificate, in hexadecimal digits."""
    from cryptography.hazmat.primitives import hashes

    return certificate.fingerprint(hashes.SHA256()).hex()


def day(when: dt.datetime) -> str:
    """Return the day of a time, in UTC."""
    return when.astimezone(dt.UTC).strftime("%Y-%m-%d")


def _short(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
