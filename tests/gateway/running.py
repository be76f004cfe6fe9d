"""A running nginx with the gateway's files, on loopback."""

import dataclasses
import itertools
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.roles.balancer_gateway import Gateway
from tests.gateway.packaged_nginx import PackagedNginx

MAIN = """
load_module {module};
worker_processes {workers};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
daemon off;
events {{ worker_connections 4096; }}
http {{
    server_tokens off;
    default_type application/json;
    client_body_temp_path {folder}/temp;
    proxy_temp_path {folder}/temp;
    fastcgi_temp_path {folder}/temp;
    uwsgi_temp_path {folder}/temp;
    scgi_temp_path {folder}/temp;
    map_hash_bucket_size 256;
{upstreams}
    map $upstream_addr $instance {{ default $upstream_addr; }}
    include gateway_http.conf;
    access_log {folder}/access.log gateway;
    proxy_http_version 1.1;
    proxy_buffering off;
    client_body_timeout {patience}s;
    client_header_timeout {patience}s;
{servers}
}}
"""
SERVER = """
    server {{
        listen 127.0.0.1:{port};
        proxy_set_header Connection "";
        proxy_set_header Host $host;
        proxy_set_header Authorization "";
        include gateway_server.conf;
    }}
"""
"""The parts of the balancer's configuration around the gateway's files. Debian's nginx has modules that ours lacks, and
their folders must exist."""
_MARK = "X-Stainless-Retry-Count"
_COUNTER = itertools.count()


@dataclass(frozen=True)
class RunningGateway:
    """A running gateway.

    Attributes:
        folder: the folder of the configuration and of the logs.
        port: the port for clients.
        process: nginx's first process.
    """

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the access log."""
        whole, _, _ = (self.folder / "access.log").read_text().rpartition("\n")  # nginx may be writing the last line
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def errors(self) -> str:
        """nginx's error log."""
        return (self.folder / "error.log").read_text()

    def row(self, mark: str) -> dict[str, Any]:
        """Return the row of a request, as soon as the row is there: nginx logs a request after its answer.

        Args:
            mark: the mark of the request, which the log has as the retries of OpenAI's SDK.
        """
        end = time.monotonic() + 10
        while not (found := [row for row in self.rows if row["retries"] == mark]):
            assert time.monotonic() < end, "nginx logs every request"
            time.sleep(0.02)
        return found[-1]

    def ask(self, method: str, target: str, body: bytes | Mapping[str, Any] | None = None, **headers: str) -> "Reply":
        """Send a request on a connection of its own and return the whole answer.

        Args:
            method: the method.
            target: path and query, sent as given.
            body: bytes, or an object to be sent as JSON.
            headers: further headers; `_` in a name stands for `-`.
        """
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: gateway", f"Content-Length: {len(data)}", "Connection: close"]
        mark = f"mark-{next(_COUNTER)}"
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in {**headers, _MARK: mark}.items()]
        reply = self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
        return dataclasses.replace(reply, mark=mark)

    def at(self, port: int) -> "RunningGateway":
        """Return the gateway with another port for requests."""
        return dataclasses.replace(self, port=port)

    def send(self, request: bytes, *, ends: bool = False) -> "Reply":
        """Send bytes on a connection of its own, and return the answer up to the end of the connection.

        Args:
            request: the bytes.
            ends: whether to end this side after the bytes.
        """
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=30)) as connection:
            received = b""
            with suppress(ConnectionError):  # nginx may have answered and gone before the end of the request
                connection.sendall(request)
            with suppress(OSError):
                if ends:
                    connection.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while piece := connection.recv(65536):
                    received += piece
        return Reply.parse(received)


@dataclass(frozen=True)
class Reply:
    """An answer.

    Attributes:
        status: the status; 0 where the connection ended without an answer.
        headers: names in lower case -> values.
        body: the bytes of the body, chunks joined.
        mark: the mark of the request in the log.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    mark: str = ""

    @classmethod
    def parse(cls, received: bytes) -> "Reply":
        """Return the answer in some bytes."""
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        if not lines[0].startswith("HTTP/1."):
            return cls(0, {}, received)
        pairs = [line.partition(":") for line in lines[1:]]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = _joined(rest) if headers.get("transfer-encoding") == "chunked" else rest
        return cls(int(lines[0].split()[1]), headers, body)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def _joined(rest: bytes) -> bytes:
    """Return the bytes of chunks."""
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size or b"0", 16)
        body, rest = body + rest[:length], rest[length + 2 :]
        if not length:
            break
    return body


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(
    program: PackagedNginx,
    folder: Path,
    gateway: Gateway,
    upstreams: Mapping[str, Sequence[int]],
    *,
    changed: Mapping[str, bytes] | None = None,
    workers: int = 1,
    patience: int = 5,
) -> Iterator[RunningGateway]:
    """Run nginx with a gateway.

    Args:
        program: nginx.
        folder: an empty folder.
        gateway: the gateway.
        upstreams: name of an upstream -> ports of its instances on loopback.
        changed: files that replace files of the gateway, to break the gateway on purpose.
        workers: worker processes of nginx.
        patience: seconds that nginx waits for the next part of a request.
    """
    port = free_port()
    (folder / "temp").mkdir()
    blocks = [
        f"    upstream {name} {{ zone {name} 64k; {' '.join(f'server 127.0.0.1:{number};' for number in ports)} }}"
        for name, ports in upstreams.items()
    ]
    listening = [port, gateway.status_port] if gateway.status_port else [port]
    servers = "".join(SERVER.format(port=number) for number in listening)
    values = {"folder": folder, "module": program.module, "upstreams": "\n".join(blocks), "servers": servers}
    (folder / "nginx.conf").write_text(MAIN.format(**values, workers=workers, patience=patience))
    for name, content in {**gateway.files, **(changed or {})}.items():
        (folder / name).write_bytes(content)
    words = [*program.words, "-e", f"{folder}/error.log", "-p", str(folder), "-c", f"{folder}/nginx.conf"]
    checked = subprocess.run([*words, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait(port)
            yield RunningGateway(folder, port, process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _wait(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < end, "nginx does not listen"
            time.sleep(0.05)
        else:
            return
