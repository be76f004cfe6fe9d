"""The certificate of a balancer, read from files of this machine when an inventory is loaded."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from provision.certificates import authority, chain
from provision.certificates.chain import UnusableError
from provision.inventory import Secret

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

Report = Callable[[str, str], None]
"""Takes the key of a setting, and a problem with the file that the setting names."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files of a balancer's certificate, as settings name them. An empty path stands for no file.

    Args:
        host: name of the balancer.
        certificate: chain in PEM, given by the operator.
        key: its key in PEM.
        trust: the authorities of a given chain.
        authority: folder of an authority of one's own, in place of a given chain.
        client_ca: the authorities of clients.
        names: names that the certificate must have: those that the operator lists first, then, with an authority of
            one's own, those of the balancer.
    """

    host: str
    certificate: Path | None = None
    key: Path | None = None
    trust: Path | None = None
    authority: Path | None = None
    client_ca: Path | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServerCertificate:
    """The certificate of a balancer, its key, and what clients need.

    Args:
        chain: certificates in PEM, that of the balancer first.
        key: private key in PEM.
        trust: certificates in PEM of the authorities that clients trust; empty for those that a machine trusts anyway.
        clients: certificates in PEM of the authorities of clients; empty where clients need no certificate.
        names: DNS names and addresses of the certificate.
        name: the name for provision's own requests.
        ends: when the first certificate of the chain, or the authority above the chain, ends, in seconds since 1970.
        days: whole days until then; negative after the end.
        clients_days: whole days until the last authority of clients ends; None where clients need no certificate.
        authority_days: whole days until the authority of one's own ends; None for a given chain.
        kept: folder of the authority of one's own; None for a given chain.
        is_new: whether the certificate was made in this load, and is not written yet.
        hindered: why a certificate that ends soon was not replaced; empty where it was, or need not be.
    """

    chain: bytes
    key: Secret
    trust: bytes = b""
    clients: bytes = b""
    names: tuple[str, ...]
    name: str
    ends: int
    days: int
    clients_days: int | None = None
    authority_days: int | None = None
    kept: Path | None = None
    is_new: bool = False
    hindered: str = ""

    @property
    def end(self) -> str:
        """The day of the end, in UTC."""
        return chain.day(dt.datetime.fromtimestamp(self.ends, dt.UTC))

    def covers(self, name: str) -> bool:
        """Return whether the certificate has a name or an address."""
        return chain.covers(self.names, name)


@dataclass(frozen=True)
class Reading:
    """What a load of the inventory read for one balancer.

    Args:
        certificate: the certificate; None where the problems leave none.
        problems: key of a setting, and the problem with its file.
    """

    certificate: ServerCertificate | None
    problems: tuple[tuple[str, str], ...] = field(default=())


def read(sources: Sources, now: dt.datetime, renew_within: int = 0) -> Reading:
    """Read and judge the certificate of a balancer. Writes nothing.

    An authority of one's own issues a certificate where none is kept, where the kept certificate cannot be used or
    lacks a name, and where the kept certificate ends soon. A chain or an authority that has ended is no problem here,
    because a date must not lock a fleet out: the step of the balancer refuses the certificate.

    Args:
        sources: the files.
        now: the present time.
        renew_within: days before its end within which a kept certificate is replaced; 0 replaces no valid certificate,
            nor one that has ended.
    """
    problems: list[tuple[str, str]] = []

    def report(key: str, message: str) -> None:
        problems.append((key, message))

    found = _own(sources, now, renew_within, report) if sources.authority else _given(sources, now, report)
    if sources.client_ca:
        clients = _authorities(sources.client_ca, "client_ca", report)
        days = _days(chain.last_end(clients), now) if clients else None
        found = found and replace(found, clients=_pem(clients), clients_days=days)
    return Reading(None if problems else found, tuple(problems))


def keep(certificate: ServerCertificate, host: str) -> Path | None:
    """Write a new certificate into the folder of its authority.

    Args:
        certificate: the certificate.
        host: name of the balancer.

    Returns:
        the path of the certificate; None where nothing is to be written.

    Raises:
        UsageError: the folder cannot be written.
    """
    if certificate.kept is None or not certificate.is_new:
        return None
    return authority.keep(certificate.kept, host, certificate.chain, certificate.key)


def _given(sources: Sources, now: dt.datetime, report: Report) -> ServerCertificate | None:
    """The chain and the key that the operator gives."""
    key = b""
    trusted = _authorities(sources.trust, "trust", report) if sources.trust else ()
    try:
        data = authority.read_key(sources.key or Path())
        chain.private_key(data)
        key = chain.key_alone(data)
    except UnusableError as error:
        report("key", f"{sources.key} {error}")
    try:
        certificates = chain.certificates(authority.read(sources.certificate or Path()))
    except UnusableError as error:
        report("certificate", f"{sources.certificate} {error}")
        return None
    wrong = list(_wrong(certificates, key, trusted, sources, now))
    for problem in wrong:
        report("certificate", f"{sources.certificate} {problem}")
    name = next((name for name in (*sources.names, *chain.names(certificates[0])) if "*" not in name), "")
    if not name and not wrong:
        report("names", "must list the names by which clients reach the balancer: the certificate has none without a *")
    return _made(certificates, Secret(key.decode(errors="replace")), trusted, name, now)


def _wrong(
    certificates: Sequence[Certificate], key: bytes, trusted: Sequence[Certificate], sources: Sources, now: dt.datetime
) -> Iterator[str]:
    """Yield why the balancer or clients cannot use a given chain."""
    problems = list(chain.wrong_chain(certificates, chain.private_key(key) if key else None, now))
    yield from problems
    if problems:
        return
    listed = chain.names(certificates[0])
    missing = [name for name in sources.names if not chain.covers(listed, name)]
    if missing:
        yield (
            f"has not the name {', '.join(missing)}, only {', '.join(listed[:10]) or 'none'}: clients would refuse it."
            " Get a certificate with this subject alternative name, or take the name out of balancer.tls.names"
        )
    if trusted and not chain.is_trusted(certificates, trusted):
        yield (
            f"does not lead to an authority of {sources.trust}: the last certificate is issued by"
            f" {certificates[-1].issuer.rfc4514_string()[:120]!r}. Put the certificates between into the file"
        )


def _own(sources: Sources, now: dt.datetime, renew_within: int, report: Report) -> ServerCertificate | None:
    """The certificate by the authority of one's own: the kept certificate, else a new certificate."""
    folder = sources.authority or Path()
    try:
        issuer = authority.certificate_of(folder)
    except UnusableError as error:
        report("authority", str(error))
        return None
    for problem in chain.wrong_authorities([issuer]):
        report("authority", f"{folder / authority.CERTIFICATE} {problem}")
        return None
    kept, unfit = None, ""
    try:
        kept = _kept(sources, folder, issuer, now)
    except UnusableError as error:
        unfit = str(error)
    if issuer.not_valid_after_utc <= now:
        ended = (
            f"{folder / authority.CERTIFICATE} has ended on {chain.day(issuer.not_valid_after_utc)}: make another"
            " authority by `provision ca init --folder`, and give its certificate to clients"
        )
        if kept is None:
            report("authority", ended)
        return kept and replace(kept, kept=folder, authority_days=-1, hindered=ended)
    # Another certificate would end with the authority too: then only a renewal by hand makes one.
    is_longer = renew_within > authority.DAYS or (kept and kept.days < _days(issuer.not_valid_after_utc, now))
    if kept is None or (renew_within and kept.days < renew_within and is_longer):
        kept = _replaced(kept, unfit, sources, folder, issuer, now, report)
    return kept and replace(kept, kept=folder, authority_days=_days(issuer.not_valid_after_utc, now))


def _replaced(
    kept: ServerCertificate | None,
    unfit: str,
    sources: Sources,
    folder: Path,
    issuer: Certificate,
    now: dt.datetime,
    report: Report,
) -> ServerCertificate | None:
    """A new certificate. Where none can be made, such as without the authority's key, the kept one goes on."""
    try:
        data, key = authority.issue(folder, sources.host, tuple(dict.fromkeys(sources.names)), now)
    except UnusableError as error:
        if kept is None:
            report("authority", f"{folder / authority.KEY} {error}. A new certificate is needed, because {unfit}")
            return None
        return replace(kept, hindered=f"{folder / authority.KEY} {error}")
    return _made(chain.certificates(data), key, [issuer], sources.names[0], now, is_new=True)


def _kept(sources: Sources, folder: Path, issuer: Certificate, now: dt.datetime) -> ServerCertificate:
    """The certificate in the folder of the authority.

    Raises:
        UnusableError: the certificate cannot be used. The message begins with a path.
    """
    at_key, at = (authority.kept_at(folder, sources.host, kind) for kind in ("key", "pem"))
    try:
        data = authority.read_key(at_key)
        key = chain.private_key(data)
    except UnusableError as error:
        raise UnusableError(f"{at_key} {error}") from None
    try:
        certificates = chain.certificates(authority.read(at))
    except UnusableError as error:
        raise UnusableError(f"{at} {error}") from None
    for unfit in chain.wrong_chain(certificates, key, now):
        raise UnusableError(f"{at} {unfit}")
    listed = chain.names(certificates[0])
    lacks = [name for name in sources.names if not chain.covers(listed, name)]
    further = [name for name in listed if not chain.covers(sources.names, name)]
    if lacks or further:
        raise UnusableError(f"{at} has other names than balancer.tls.names and the names of the balancer")
    if not chain.is_issued_by(certificates[0], issuer):
        raise UnusableError(f"{at} is of another authority")
    return _made(certificates, Secret(data.decode(errors="replace")), [issuer], sources.names[0], now)


def _made(
    certificates: Sequence[Certificate],
    key: Secret,
    trusted: Sequence[Certificate],
    name: str,
    now: dt.datetime,
    *,
    is_new: bool = False,
) -> ServerCertificate:
    above = [each for each in trusted if chain.is_trusted(certificates, [each])]
    end = min([chain.end(certificates), *([chain.last_end(above)] if above else [])])
    return ServerCertificate(
        chain=_pem(certificates),
        key=key,
        trust=_pem(trusted),
        names=chain.names(certificates[0]),
        name=name,
        ends=int(end.timestamp()),
        days=_days(end, now),
        is_new=is_new,
    )


def _authorities(path: Path, key: str, report: Report) -> tuple[Certificate, ...]:
    """The authorities of a file."""
    try:
        found = chain.certificates(authority.read(path))
    except UnusableError as error:
        report(key, f"{path} {error}")
        return ()
    for problem in chain.wrong_authorities(found):
        report(key, f"{path} {problem}")
    return found


def _pem(certificates: Sequence[Certificate]) -> bytes:
    """The certificates alone: comments, and a key in the same file, are left out."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _days(end: dt.datetime, now: dt.datetime) -> int:
    """Whole days until a time, rounded down: -1 from the end on."""
    return (end - now).days
