"""TLS of an endpoint: the authorities to trust, the name to expect, and the certificate of a client."""

import dataclasses
import http.client
import ssl
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from provision.errors import UsageError

LARGEST = 1 << 20  # bytes of a file


@dataclass(frozen=True)
class Trust:
    """How to trust an endpoint, and how to be trusted.

    Args:
        authorities: certificates in PEM; empty for the authorities of this machine.
        names: URL of a balancer without a path -> a name of its certificate, where the certificate lacks the address.
        client: path of a file in PEM with a certificate and its key; empty for none.
        asks: whether the endpoint asks clients for a certificate, as far as known.
    """

    authorities: str = ""
    names: tuple[tuple[str, str], ...] = ()
    client: str = ""
    asks: bool = False

    def context(self) -> ssl.SSLContext:
        """Return the settings for a connection.

        Raises:
            UsageError: the authorities or the certificate of the client cannot be used.
        """
        try:
            context = ssl.create_default_context(cadata=self.authorities or None)
        except (ssl.SSLError, ValueError) as error:
            raise UsageError(f"the authorities of the endpoint cannot be used: {error}") from None
        if self.client:
            try:
                context.load_cert_chain(self.client, password=_no_password)
            except (OSError, ssl.SSLError, ValueError) as error:
                reason = getattr(error, "strerror", "") or str(error)
                hint = "give a file in PEM with a certificate and its key, without a password"
                raise UsageError(f"--client-certificate {self.client} cannot be used: {reason}", hint) from None
        return context

    def name(self, url: str) -> str:
        """Return the name to expect in the certificate of a balancer; empty for the name in the URL.

        Args:
            url: base URL of the balancer, perhaps with the path of a model.
        """
        parts = urlsplit(url)
        return dict(self.names).get(f"{parts.scheme}://{parts.netloc}", "")

    def handler(self, url: str) -> urllib.request.HTTPSHandler:
        """Return the handler of requests to a base URL for `urllib.request`."""
        return _Handler(self.context(), self.name(url))

    def document(self, urls: Iterable[str]) -> dict[str, Any]:
        """Return the fields for the job of Locust. No field is a secret: the key is in the file of the client.

        Args:
            urls: base URLs of the requests.
        """
        return {"authorities": self.authorities, "names": {url: self.name(url) for url in urls}, "client": self.client}


MACHINE = Trust()
"""The authorities that this machine trusts."""


def with_files(trust: Trust, authorities: str, client: str) -> Trust:
    """Return a trust with the files of the command line.

    Args:
        trust: of the inventory.
        authorities: path of a file in PEM, which replaces the authorities; empty for none.
        client: path of a file in PEM with certificate and key; empty for none.

    Raises:
        UsageError: a file cannot be used.
    """
    if authorities:
        try:
            # Bundles have comments in any language, and certificates in PEM are ASCII.
            with Path(authorities).expanduser().open(encoding="ascii", errors="ignore") as file:
                text = file.read(LARGEST + 1)
        except OSError as error:
            raise UsageError(f"--ca {authorities} cannot be read: {type(error).__name__}") from None
        if len(text) > LARGEST:
            raise UsageError(f"--ca {authorities} is larger than {LARGEST >> 20} MiB")
        if "-----BEGIN CERTIFICATE-----" not in text:
            raise UsageError(f"--ca {authorities} holds no certificate in PEM")
        trust = dataclasses.replace(trust, authorities=text)
    if client:
        trust = dataclasses.replace(trust, client=str(Path(client).expanduser().absolute()))
    if trust.asks and not trust.client:
        hint = "give --client-certificate FILE, in PEM with its key, of an authority of balancer.tls.client_ca"
        raise UsageError("the balancers ask clients for a certificate", hint)
    trust.context()
    return trust


def _no_password() -> str:
    """Answer OpenSSL's question for a password, which would wait at the terminal."""
    raise ValueError("its key is encrypted")


class _Handler(urllib.request.HTTPSHandler):
    """Opens connections that expect a name.

    Args:
        context: the settings.
        name: the name to expect; empty for the name in the URL.
    """

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        super().__init__(context=context)
        self._settings, self._name = context, name

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a request."""

        def connection(host: str, **how: Any) -> http.client.HTTPSConnection:
            return _Named(host, settings=self._settings, name=self._name, **how)

        return self.do_open(connection, req)


class _Named(http.client.HTTPSConnection):
    """A connection to an address whose certificate has a name."""

    def __init__(self, host: str, *, settings: ssl.SSLContext, name: str, **how: Any) -> None:
        super().__init__(host, context=settings, **how)
        self._settings, self._name = settings, name

    def connect(self) -> None:
        """Connect, and expect the name."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._settings.wrap_socket(self.sock, server_hostname=self._name or self.host)
