"""A model registry: what an Ollama server pulls from, and the ways in which a registry fails.

    python -m provision.lab.model_registry ADDRESS PORT BLOB_ADDRESS FOLDER FAULTS

The lab runs one for the site. Tests start one on loopback, in front of a simulated or of the real Ollama:

    with ModelRegistry(tmp_path).serving() as registry:
        registry.store.publish("library/small:latest", [("model", weights)], {"model_format": "gguf"})
        pull(registry.name("library/small:latest"), insecure=True)  # 127.0.0.1:PORT/library/small:latest
        registry.fault("models-stall", model="library/small", value="1000000")
        registry.clear("models-stall", model="library/small")
        registry.requests()  # all requests so far: method, path, Range

Ollama downloads a blob only from another host name than the registry's (docs/facts.md#ollama-pull). So the registry
answers manifests and questions for blobs, and sends whoever wants the bytes to a second server at another address:
on loopback `localhost`, in the lab a second address of the site. The second server knows Range.

A fault is a file in a folder, so that a person can switch faults while the registry runs: `FAULT` for every model,
`FAULT@NAMESPACE+MODEL` for one. The text of the file is the fault's value. `FAULTS` lists the faults.
"""

import select
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from provision.lab.model_store import Store

FAULTS = {
    "models-manifest": "the model registry answers a manifest with --value 401, 404, 500, html, nothing or silence",
    "models-blob": "the model registry answers a blob with --value 401, 404, 500, html, nothing or silence",
    "models-stall": "half of a blob comes, then nothing (--value BYTES; --value 'BYTES once')",
    "models-close": "half of a blob comes, then the connection closes (--value BYTES; --value 'BYTES once')",
    "models-lie": "the bytes of a blob do not match its digest",
    "models-slow": "a blob comes slowly (--value BYTES a second; 1000000 by default)",
    "models-plain": "the model registry sends blobs itself, as an ordinary image registry does",
}
_JSON, _BYTES = "application/json", "application/octet-stream"
_CHUNK = 1 << 16
_SLICE = 0.05


class ModelRegistry:
    """A model registry on two ports.

    Args:
        folder: folder of the models; `provision.lab.model_store` says its layout.
        faults: folder of the faults; by default beside the models.
        address: IPv4 address of the registry.
        port: port of the registry; 0 for any free port. The blobs have the next free port, or port + 1.
        blobs: address that clients use for the blobs. To Ollama it must differ from `address` as a text.
    """

    def __init__(
        self, folder: Path, faults: Path | None = None, address: str = "127.0.0.1", port: int = 0, blobs: str = ""
    ) -> None:
        self.store = Store(folder)
        self._faults = faults or folder / "faults"
        self._faults.mkdir(parents=True, exist_ok=True)
        self._seen: list[tuple[str, str, str]] = []
        self._counts: Counter[str] = Counter()
        self._guard = threading.Lock()
        self.ended = threading.Event()
        listening = "127.0.0.1" if blobs in {"", "localhost"} else blobs
        self._front = self._listen(address, port, _Front)
        self._back = self._listen(listening, port + 1 if port else 0, _Back)
        self.host = f"{address}:{self._front.server_port}"
        self.blob_host = f"{blobs or 'localhost'}:{self._back.server_port}"

    def _listen(self, address: str, port: int, kind: type["_Handler"]) -> ThreadingHTTPServer:
        handler = type(kind.__name__, (kind,), {"registry": self})
        return _Server((address, port), handler)

    @contextmanager
    def serving(self) -> Iterator["ModelRegistry"]:
        """Serve from threads of this process until the block ends."""
        for server in (self._front, self._back):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield self
        finally:
            self.ended.set()
            for server in (self._front, self._back):
                server.shutdown()
                server.server_close()

    def name(self, model: str) -> str:
        """The name by which Ollama pulls a model from here, such as `127.0.0.1:5001/library/small:latest`."""
        return f"{self.host}/{model}"

    def fault(self, fault: str, model: str = "", value: str = "") -> None:
        """Switch a fault on.

        Args:
            fault: a key of `FAULTS`.
            model: namespace and name of the only model with the fault, such as `library/small`; empty for all.
            value: the value of the fault.
        """
        (self._faults / fault_file(fault, model)).write_text(value)

    def clear(self, fault: str, model: str = "") -> None:
        """Switch a fault off."""
        (self._faults / fault_file(fault, model)).unlink(missing_ok=True)

    def requests(self) -> list[tuple[str, str, str]]:
        """Every request so far: method, path, and header Range."""
        with self._guard:
            return list(self._seen)

    def record(self, method: str, path: str, ranged: str) -> None:
        """Remember a request."""
        with self._guard:
            self._seen.append((method, path, ranged))
            del self._seen[:-1000]

    def value(self, fault: str, model: str) -> str | None:
        """The value of a fault for a model; None while the fault is off."""
        for file in (fault_file(fault, model), fault_file(fault, "")):
            with suppress(OSError):
                return (self._faults / file).read_text().strip()
        return None

    def limit(self, fault: str, model: str, digest: str, size: int) -> int | None:
        """After how many bytes of a connection a fault strikes: half of the rest by default; None for never.

        Args:
            fault: `models-stall` or `models-close`.
            model: namespace and name of the model.
            digest: digest of the blob; a fault with the word `once` strikes once for each blob.
            size: bytes that the client asked for.
        """
        value = self.value(fault, model)
        if value is None:
            return None
        words = value.split()
        with self._guard:
            self._counts[f"{fault} {digest}"] += 1
            if "once" in words and self._counts[f"{fault} {digest}"] > 1:
                return None
        return int(words[0]) if words and words[0].isdigit() else size // 2

    def wait_for_end(self, alive: Callable[[], bool]) -> None:
        """Wait until the registry or the client ends."""
        while not self.ended.wait(0.1) and alive():
            pass


def fault_file(fault: str, model: str) -> str:
    """Name of a fault's file; `model` may be a full name with host and tag, or a short one of the library."""
    if not model:
        return fault
    path = "/".join(model.split("/")[-2:]).partition(":")[0]
    return f"{fault}@{(path if '/' in path else f'library/{path}').replace('/', '+')}"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # else the client left while a request was read
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler, ABC):
    protocol_version = "HTTP/1.1"
    registry: ClassVar[ModelRegistry]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.registry.record(self.command, path, self.headers.get("Range", ""))
        try:
            self.route(path.strip("/").split("/"))
        except OSError:  # the client left
            self.close_connection = True

    @abstractmethod
    def route(self, words: list[str]) -> None:
        """Answer a request for a path."""

    def say(self, status: int, data: bytes = b"", kind: str = _JSON, **headers: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        """Send an error as a registry does."""
        self.say(status, f'{{"errors":[{{"code":"{code}","message":"simulated by the provision lab"}}]}}'.encode())

    def fails(self, fault: str, model: str) -> bool:
        """Answer as a fault demands; False while the fault is off."""
        value = self.registry.value(fault, model)
        if value is None:
            return False
        if value == "html":
            self.say(200, b"<html>a portal, simulated by the provision lab</html>", "text/html")
        elif value == "silence":
            self.registry.wait_for_end(self._alive)
            self.close_connection = True
        elif value == "nothing":
            self.close_connection = True
        else:
            self.refuse(int(value) if value.isdigit() else 500, "SIMULATED")
        return True

    def _alive(self) -> bool:
        """Whether the client is still connected."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return not readable or bool(self.connection.recv(1, socket.MSG_PEEK))

    def send_blob(self, model: str, digest: str) -> None:
        """Send a blob, or the range of it that the client asks for, as the faults of the model allow."""
        file = self.registry.store.blob(digest)
        if file is None:
            self.refuse(404, "BLOB_UNKNOWN")
            return
        size = file.stat().st_size
        wanted = _range(self.headers.get("Range", ""), size)
        first, last = wanted or (0, size - 1)
        self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
        length = last - first + 1
        headers = {"Content-Type": _BYTES, "Content-Length": str(length), "Accept-Ranges": "bytes"}
        for name, value in (headers | ({"Content-Range": f"bytes {first}-{last}/{size}"} if wanted else {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._send_bytes(model, digest, file, first, length)

    def _send_bytes(self, model: str, digest: str, file: Path, first: int, length: int) -> None:
        stall = self.registry.limit("models-stall", model, digest, length)
        close = self.registry.limit("models-close", model, digest, length)
        left = min(limit for limit in (stall, close, length) if limit is not None)
        lies = self.registry.value("models-lie", model) is not None
        with file.open("rb") as source:
            source.seek(first)
            while left and not self.registry.ended.is_set():
                data = source.read(min(left, self._step(model)))
                self.wfile.write(bytes(len(data)) if lies else data)
                left -= len(data)
        if stall is not None and stall < length:
            self.registry.wait_for_end(self._alive)
        if (stall is not None and stall < length) or (close is not None and close < length):
            self.close_connection = True

    def _step(self, model: str) -> int:
        """How many bytes to send now; waits where the fault `models-slow` is on."""
        rate = self.registry.value("models-slow", model)
        if rate is None:
            return _CHUNK
        time.sleep(_SLICE)
        return max(1, int((int(rate) if rate.isdigit() else 1_000_000) * _SLICE))

    def log_message(self, *words: Any) -> None:
        """Stay silent: `requests` has all of them."""


class _Front(_Handler):
    def route(self, words: list[str]) -> None:
        match words:
            case ["v2"]:
                self.say(200, b"{}")
            case ["v2", space, model, "manifests", tag]:
                self._manifest(f"{space}/{model}", tag)
            case ["v2", space, model, "blobs", digest]:
                self._blob(f"{space}/{model}", digest)
            case _:
                self.refuse(404, "NOT_FOUND")

    def _manifest(self, model: str, tag: str) -> None:
        if self.fails("models-manifest", model):
            return
        data = self.registry.store.manifest(model, tag)
        if data is None:
            self.refuse(404, "MANIFEST_UNKNOWN")
        else:
            self.say(200, data, "application/vnd.docker.distribution.manifest.v2+json")

    def _blob(self, model: str, digest: str) -> None:
        asked = self.registry.value("models-blob", model)
        early = asked == "404" or (asked not in {None, "silence"} and self.command == "GET")
        if early and self.fails("models-blob", model):
            return
        plain = self.registry.value("models-plain", model) is not None
        if plain or self.command == "HEAD" or self.registry.store.blob(digest) is None:
            self.send_blob(model, digest)
        else:
            self.say(307, Location=f"http://{self.registry.blob_host}/{model}/{digest}")


class _Back(_Handler):
    def route(self, words: list[str]) -> None:
        match words:
            case [space, model, digest]:
                if self.registry.value("models-blob", f"{space}/{model}") != "silence":
                    self.send_blob(f"{space}/{model}", digest)
                else:
                    self.fails("models-blob", f"{space}/{model}")
            case _:
                self.refuse(404, "NOT_FOUND")


def _range(text: str, size: int) -> tuple[int, int] | None:
    """First and last byte of a header Range; None without one that a server has to follow."""
    unit, _, span = text.partition("=")
    first, dash, last = span.partition("-")
    if unit != "bytes" or not dash or not first.isdigit() or (last and not last.isdigit()):
        return None
    start, stop = int(first), min(int(last or size), size - 1)
    return (start, stop) if start <= stop else None


def main(address: str, port: str, blobs: str, folder: str, faults: str) -> None:
    """Serve until killed.

    Args:
        address: address of the registry.
        port: port of the registry; the blobs have the next one.
        blobs: address of the blobs.
        folder: folder of the models.
        faults: folder of the faults.
    """
    registry = ModelRegistry(Path(folder), Path(faults), address, int(port), blobs)
    with registry.serving():
        threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
