"""TLS of the balancer: its settings, the files that the settings name, and sentences about both."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from provision.certificates import chain, served
from provision.certificates.served import Reading, ServerCertificate, Sources
from provision.errors import Problem
from provision.inventory import Host, Port, Text
from provision.inventory import Settings as Base
from provision.inventory.paths import beside
from provision.inventory.settings import KeyPath
from provision.inventory.types import is_host
from provision.render import render
from provision.steps.base import Step
from provision.steps.nginx import tls, vulnerabilities
from provision.steps.nginx_paths import CONFIG
from provision.steps.system.systemd import Timer, Unit

CHECK = "provision-certificate-check"
"""Name of the units that look at the certificate each day."""
HTTPS = 443
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound
SOON = tls.SOON
"""Days before its end in which a certificate is renewed or warned of."""
AUTHORITY_SOON = 120
"""Days before the end of an authority of one's own in which its end is warned of: its last certificates have 90."""
LOOP, TICKETS = "CVE-2026-118899", "CVE-2026-97629"
"""Vulnerabilities by TLS 1.3 and by session tickets, docs/facts.md#nginx-versions."""


class Tls(Base):
    """TLS for clients: by a certificate that you give, or by an authority of your own (`provision ca init`)."""

    authority: Text = ""
    """Folder of an authority that `provision ca init` made, such as `ca`. Each balancer gets a certificate of 90 days
    with its names and addresses. `deploy` renews a certificate with less than 30 days left."""
    certificate: Text = ""
    """File with a certificate in PEM: that of the balancer, then its issuers. In place of `authority`."""
    key: Text = ""
    """File with the private key of `certificate`, in PEM, without a password, closed to other users (mode 0600)."""
    trust: Text = ""
    """File with the authorities of `certificate`, in PEM, for `verify` and `loadtest`. Empty: the authorities that each
    machine trusts."""
    names: tuple[Text, ...] = Field(default=(), max_length=100)
    """Names and addresses by which clients reach the balancer, and which the certificate must have."""
    client_ca: Text = ""
    """File with authorities in PEM: only clients with a certificate of one of them are served."""
    redirect_port: Port | None = None
    """Port that answers requests without TLS by a redirect to `port`. Null: none."""
    hsts: int = Field(default=0, ge=0, le=315360000)
    """Seconds for which browsers use nothing but TLS (Strict-Transport-Security), such as 63072000. 0: not sent."""

    def problems(self) -> Iterator[tuple[KeyPath, str]]:
        """Yield neither or both sources of a certificate, and names that are no names."""
        if self.authority and (self.certificate or self.key or self.trust):
            yield ("authority",), "does not go with certificate, key or trust: give one or the other"
        elif not self.authority and not (self.certificate and self.key):
            yield (), "needs `authority`, which `provision ca init` makes, or both `certificate` and `key`"
        for number, name in enumerate(self.names):
            if not is_host(name):
                yield ("names", number), "must be a DNS name or an IP address"


def sources(host: Host, folder: Path, settings: Tls, listen: tuple[str, ...]) -> Sources:
    """Return the files of a balancer's certificate, and the names that the certificate needs.

    Args:
        host: the balancer.
        folder: a path in the folder of the inventory, for relative paths.
        settings: of the balancer.
        listen: its addresses for clients.
    """
    own = (host.connection.address, host.name, *(address for address in listen if address not in EVERYWHERE))
    names = (*settings.names, *(name for name in own if settings.authority and is_host(name)))

    def path(text: str) -> Path | None:
        return beside(text, folder) if text else None

    return Sources(
        host=host.name,
        certificate=path(settings.certificate),
        key=path(settings.key),
        trust=path(settings.trust),
        authority=path(settings.authority),
        client_ca=path(settings.client_ca),
        names=tuple(chain.plain(name) for name in names),
    )


def read(host: Host, inventory: str, settings: Tls, listen: tuple[str, ...], renew_within: int) -> Reading:
    """Read the certificate of a balancer, or make a new one without writing it.

    Args:
        host: the balancer.
        inventory: path of the inventory.
        settings: of the balancer.
        listen: its addresses for clients.
        renew_within: see `Role.files`.
    """
    return served.read(sources(host, Path(inventory), settings, listen), dt.datetime.now(dt.UTC), renew_within)


def certificate(host: Host) -> ServerCertificate | None:
    """Return the certificate that the load of the inventory read for a balancer; None without TLS."""
    reading = host.files.get("balancer")
    return reading.certificate if isinstance(reading, Reading) else None


def keep(host: Host) -> str:
    """Write a new certificate into the folder of its authority. Returns the path, or an empty text."""
    found = certificate(host)
    return str(served.keep(found, host.name) or "") if found else ""


def problems(host: Host) -> Iterator[Problem]:
    """Yield every problem with the files of a balancer's certificate."""
    reading = host.files.get("balancer")
    for key, message in reading.problems if isinstance(reading, Reading) else ():
        yield host.problem("balancer", ("tls", key), message)


def warnings(host: Host, settings: Tls) -> Iterator[str]:
    """Yield a warning about a certificate or an authority that ends soon, or that has ended.

    Args:
        host: the balancer.
        settings: of the balancer.
    """
    found = certificate(host)
    if found is None:
        return
    if found.authority_days is not None and 0 <= found.authority_days < AUTHORITY_SOON:
        yield (
            f"the authority {settings.authority} ends in {found.authority_days} days: make another one by `provision ca"
            " init --folder`, and give its certificate to clients before"
        )
    if found.clients_days is not None and found.clients_days < SOON:
        when = f"end in {found.clients_days} days" if found.clients_days >= 0 else "have ended"
        yield f"the authorities of {settings.client_ca} {when}, and no client of {host.name} is served after that"
    if found.days >= SOON or found.is_new:
        return
    when = f"ends in {found.days} days, on {found.end}" if found.days >= 0 else f"has ended on {found.end}"
    if found.hindered:
        cure = f"nothing could renew it: {found.hindered}"
    elif settings.authority:
        cure = "`provision deploy` renews it"
    else:
        cure = "get a new one for balancer.tls.certificate, then `provision deploy`"
    yield f"the certificate of {host.name} {when}: {cure}"


def advice(host: Host, protocols: tuple[str, ...], version: str) -> Iterator[str]:
    """Yield a sentence about a certificate that a deploy makes, and about a version of TLS that is left out.

    Args:
        host: the balancer.
        protocols: the versions of TLS.
        version: the version of nginx.
    """
    found = certificate(host)
    if found and found.is_new:
        yield f"deploy keeps a new certificate for {host.name}, until {found.end}, in {found.kept}/"
    if found and protocols == ("TLSv1.2",):
        yield (
            f"clients get TLS 1.2 only, because nginx {version} without patches has a vulnerability by TLS 1.3"
            f" ({LOOP}): nginx.version {vulnerabilities.MENDED} or nginx.patches bring TLS 1.3"
        )


def step(found: ServerCertificate, settings: Tls, known: list[str], *, patched: bool, at: str, port: int) -> tls.Tls:
    """Return TLS as the configuration of nginx has it.

    Args:
        found: the certificate.
        settings: of the balancer.
        known: known vulnerabilities of nginx's version.
        patched: whether nginx is built with patches.
        at: `ADDRESS:PORT` where the balancer reaches itself.
        port: the port for clients.
    """
    return tls.Tls(
        certificate=found.chain,
        key=found.key.reveal().encode(),
        trust=found.trust,
        clients=found.clients,
        name=found.name,
        at=at,
        port=port,
        protocols=protocols(known, patched=patched),
        tickets=TICKETS not in known,
        hsts=settings.hsts,
        redirect_port=settings.redirect_port or 0,
        end=found.end,
        refused=_refused(found),
    )


def _refused(found: ServerCertificate) -> str:
    """Return why clients would be refused from the first request on, or an empty text."""
    if found.days < 0:
        return (
            f"the certificate of balancer.tls, or the authority above, has ended on {found.end}: every client refuses"
            " the certificate. Get a new certificate, or take balancer.tls out; then `provision deploy`"
        )
    if found.clients_days is not None and found.clients_days < 0:
        return (
            "all authorities of balancer.tls.client_ca have ended, so nginx refuses every client: give the file an"
            " authority that lasts, then `provision deploy`"
        )
    return ""


def protocols(known: list[str], *, patched: bool) -> tuple[str, ...]:
    """Return the versions of TLS: 1.2 alone on an nginx with the vulnerability by TLS 1.3.

    Args:
        known: known vulnerabilities of nginx's version.
        patched: whether nginx is built with patches, for which the operator vouches.
    """
    return ("TLSv1.2",) if LOOP in known and not patched else ("TLSv1.2", "TLSv1.3")


def redirect(listen: tuple[str, ...], port: int, max_body: int, *, allow: bool) -> bytes:
    """Return the text of `redirect.conf`.

    Args:
        listen: `ADDRESS:PORT` of every address that redirects.
        port: the port for clients.
        max_body: bytes of the largest request.
        allow: whether only some clients may ask.
    """
    at = "" if port == HTTPS else f":{port}"
    return render("balancer/redirect.conf.j2", listen=listen, port=at, max_body=max_body, allow=allow)


def watched() -> Iterator[Step]:
    """Yield the timer that warns on the host itself: nobody may run provision for months."""
    path = f"{CONFIG}/{tls.CERTIFICATE}"
    check = render(f"balancer/{CHECK}.service.j2", path=path, days=tls.SOON, seconds=tls.SOON * tls.DAY)
    yield Unit(name=f"{CHECK}.service", content=check)
    yield Unit(name=f"{CHECK}.timer", content=render(f"balancer/{CHECK}.timer.j2"))
    yield Timer(name=CHECK, after=(f"unit:{CHECK}.timer",))
