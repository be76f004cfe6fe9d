"""Pulls over HTTP from any other registry than the library, with the texts of the real server's errors.

Requests, redirects and texts are those of 0.34.4 (server/images.go, server/download.go) and of Go's net/http.
"""

import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import SplitResult, urljoin, urlsplit

from . import ollama_proxy
from .ollama_json import NoBodyError, decode
from .ollama_transfer import BrokenError, PullError, RequestError, Transfer

_DIAL = 30
_REDIRECTS = 10
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LARGEST = 8 << 20
_RESOLVERS = Path("/etc/resolv.conf")
_MOVED = {301, 302, 303, 307, 308}


class Registry:
    """A model in a registry.

    Args:
        host: host of the registry, with its port if any.
        path: namespace and name of the model.
        tag: tag of the model.
        insecure: whether the client allowed plain HTTP; the real server then uses nothing else.
    """

    def __init__(self, host: str, path: str, tag: str, *, insecure: bool) -> None:
        self._base = f"{'http' if insecure else 'https'}://{host}/v2/{path}"
        self._host, self._tag, self._insecure = host, tag, insecure

    def manifest(self, transfer: Transfer) -> bytes:
        """The manifest of the model."""
        url = f"{self._base}/manifests/{self._tag}"
        data = _body(self._asked("GET", url, transfer, Accept=_MANIFEST))
        _check_json(data)
        return data

    def size(self, digest: str, transfer: Transfer) -> int:
        """Bytes of a blob."""
        with self._asked("HEAD", f"{self._base}/blobs/{digest}", transfer) as answer:
            length = answer.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else 0

    def locate(self, digest: str, transfer: Transfer) -> str:
        """The place to which the registry redirects: only redirects within the host name are followed on the way.

        Raises:
            PullError: the registry answers with the blob itself, or with a redirect of another kind.
        """
        url = f"{self._base}/blobs/{digest}"
        with self._asked("GET", url, transfer, stays=True) as answer:
            status, target = answer.status, answer.headers.get("Location")
        if status not in {200, 307}:
            raise PullError(f"unexpected status code {status}")
        if not target:
            raise PullError("http: no Location header in response")
        return urljoin(url, target)

    def read(self, place: str, first: int, last: int, transfer: Transfer) -> Iterator[bytes]:
        """The bytes of a blob, whatever the status of the answer, as they come.

        Raises:
            BrokenError: the connection closed before the end of the answer.
            RequestError: there was no answer.
        """
        with _follow("GET", place, transfer, {"Range": f"bytes={first}-{last}"}, lambda _: True) as answer:
            try:
                while data := answer.read1(1 << 16):
                    yield data
            except (OSError, http.client.HTTPException) as error:
                raise BrokenError from error
            if answer.length:
                raise BrokenError

    def _asked(
        self, method: str, url: str, transfer: Transfer, *, stays: bool = False, **headers: str
    ) -> http.client.HTTPResponse:
        """The answer of the registry.

        Args:
            method: method of the request.
            url: place of the request.
            transfer: the transfer.
            stays: whether a redirect to another host name is an answer, instead of a step on the way.
            headers: headers of the request.

        Raises:
            RequestError: the registry does not answer, or refuses.
        """
        here = urlsplit(url)

        def follows(there: SplitResult) -> bool:
            if stays:
                return there.hostname == here.hostname
            if self._insecure or there.netloc == here.netloc:
                return True
            raise RequestError(f'{method.title()} "{there.geturl()}": blocked redirect to a different host')

        answer = _follow(method, url, transfer, headers, follows)
        if answer.status == 401:
            raise RequestError(_unauthorized(answer.headers.get("WWW-Authenticate", ""), self._host))
        if answer.status == 404:
            raise RequestError("file does not exist")
        if answer.status >= 400:
            raise RequestError(f"{answer.status}: {_body(answer).decode(errors='replace')}")
        return answer


def _unauthorized(challenge: str, host: str) -> str:
    """The text where a registry asks for a login; the simulated server has no key for one."""
    realm = re.search(r'realm="([^"]*)"', challenge)
    there = urlsplit(realm.group(1)).netloc if realm else ""
    if there != host:
        return f"realm host {json.dumps(there)} does not match original host {json.dumps(host)}"
    return "unauthorized: access denied"


def _follow(
    method: str, url: str, transfer: Transfer, headers: dict[str, str], follows: Callable[[SplitResult], bool]
) -> http.client.HTTPResponse:
    """The answer of a server, after all redirects that `follows` agrees to."""
    for _ in range(_REDIRECTS):
        answer = _request(method, url, transfer, headers)
        target = answer.headers.get("Location")
        if answer.status not in _MOVED or not target:
            return answer
        there = urlsplit(urljoin(url, target))
        if not follows(there):
            return answer
        answer.close()
        url = there.geturl()
    raise RequestError(f'{method.title()} "{url}": maximum redirects exceeded (10) for directURL')


def _request(method: str, url: str, transfer: Transfer, headers: dict[str, str]) -> http.client.HTTPResponse:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}[parts.scheme]
        connection = http.client.HTTPConnection(host, port)
        connection.sock = _reached(host, port, transfer) if parts.scheme == "https" else _dial(host, port, transfer)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, path, headers={**headers, "Host": parts.netloc, "Connection": "close"})
        return connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise RequestError(f'{method.title()} "{url}": {_words(error)}') from error


class _GoError(OSError):
    """An error of the network, with Go's text."""


def _words(error: Exception) -> str:
    if isinstance(error, _GoError):
        return str(error)
    if isinstance(error, ConnectionResetError) and not isinstance(error, http.client.RemoteDisconnected):
        return "read: connection reset by peer"
    if isinstance(error, (http.client.RemoteDisconnected, ConnectionError)):
        return "EOF"
    if isinstance(error, http.client.BadStatusLine):
        return f"net/http: HTTP/1.x transport connection broken: malformed HTTP response {json.dumps(str(error))}"
    return str(error)


def _reached(host: str, port: int, transfer: Transfer) -> socket.socket:
    """A connection by TLS, through the proxy of the environment if there is a proxy."""
    proxy = ollama_proxy.of(host)
    if proxy is None:
        return _encrypted(_dial(host, port, transfer), host, port)
    try:
        connection = _dial(proxy.hostname or "", proxy.port or 80, transfer)
    except _GoError as error:
        raise _GoError(f"proxyconnect tcp: {error}") from error
    ollama_proxy.tunnel(connection, proxy, host, port)
    return _encrypted(connection, host, port)


def _dial(host: str, port: int, transfer: Transfer) -> socket.socket:
    """A connection to a server; the connection has no time limit, as in the real server."""
    try:
        (_, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise _GoError(f"dial tcp: lookup {host} on {_resolver()}:53: no such host") from error
    where = f"[{address[0]}]:{port}" if ":" in str(address[0]) else f"{address[0]}:{port}"
    try:
        connection = socket.create_connection((str(address[0]), port), timeout=_DIAL)
    except TimeoutError as error:
        raise _GoError(f"dial tcp {where}: i/o timeout") from error
    except OSError as error:
        raise _GoError(f"dial tcp {where}: connect: {(error.strerror or '').lower()}") from error
    connection.settimeout(None)
    transfer.attach(connection)
    return connection


def _encrypted(connection: socket.socket, host: str, port: int) -> socket.socket:
    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise _GoError(f"tls: failed to verify certificate: x509: {error.verify_message}") from error
    except ssl.SSLError as error:
        if _speaks_http(host, port):
            raise _GoError("http: server gave HTTP response to HTTPS client") from error
        raise _GoError("tls: first record does not look like a TLS handshake") from error


def _speaks_http(host: str, port: int) -> bool:
    """Whether a server answers the begin of a TLS handshake in HTTP."""
    with suppress(OSError), socket.create_connection((host, port), timeout=2) as connection:
        connection.sendall(b"\x16\x03\x01\r\n\r\n")
        return connection.recv(5) == b"HTTP/"
    return False


def _resolver() -> str:
    """The address of the name server."""
    with suppress(OSError):
        words = (line.split() for line in _RESOLVERS.read_text().splitlines())
        return next((line[1] for line in words if len(line) > 1 and line[0] == "nameserver"), "127.0.0.1")
    return "127.0.0.1"


def _body(answer: http.client.HTTPResponse) -> bytes:
    try:
        with answer:
            return answer.read(_LARGEST)
    except (OSError, http.client.HTTPException) as error:
        raise RequestError("unexpected EOF") from error


def _check_json(data: bytes) -> None:
    try:
        document = decode(data)
    except NoBodyError as error:
        raise RequestError("unexpected end of JSON input") from error
    except ValueError as error:
        raise RequestError(str(error)) from error
    if not isinstance(document, dict):
        raise RequestError("json: cannot unmarshal into Go value of type manifest.Manifest")
