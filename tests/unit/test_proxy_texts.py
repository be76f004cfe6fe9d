"""Real programs and a real forward proxy on loopback: the texts of failures, and the way of the simulated server."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from provision.apply import proxied
from provision.inventory import Connection, Host
from provision.inventory.proxy import ProxyUrl
from provision.lab.simulated import ollama_proxy
from provision.roles.proxy import Settings
from provision.steps.system.apt_repository import FETCH
from provision.steps.system.proxy import APT, ENVIRONMENT, apt_text, environment
from tests.lab.forward_proxy import Proxy

LOGIN = "user:canary p@ss"


class Way:
    """A proxy with a login, and a host that asks through the proxy.

    Args:
        folder: folder of the proxy, and of the files on the host.
        port: TCP port of the proxy.
        login: in the URL, percent-encoded.
    """

    def __init__(self, folder: Path, port: int, login: str = "user:canary%20p%40ss") -> None:
        self.folder, self.port, self.url = folder, port, f"http://{login}@127.0.0.1:{port}"
        self.settings = Settings(http=self.url)
        self.host = Host(name="gpu-01", connection=Connection(address="h"), settings={"proxy": self.settings})

    def fetch(self) -> str:
        """Run the script that fetches a key, and return its error."""
        file = self.folder / "proxy.env"
        file.write_bytes(environment(self.settings.http, None, (), upper=False))
        text = "set -eu\n" + FETCH.replace(ENVIRONMENT, str(file))
        words = ["sh", "-s", "--", str(self.folder / "key.asc"), "http://repository.test/gpg", "0" * 40]
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode
        return done.stderr

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Way]:
    (tmp_path / "login").write_text(LOGIN)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Proxy,), {"folder": tmp_path}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Way(tmp_path, server.server_port)
    server.shutdown()
    server.server_close()


def test_a_wrong_password(way):
    other = Way(way.folder, way.port, "user:canary-wrong")
    said = other.fetch()
    assert way.log.startswith("407 GET http://repository.test/gpg")
    advice = proxied.advice(other.host, said)
    assert "gpu-01 asked through the proxy http://[secret]@127.0.0.1" in advice
    assert "another login (407)" in advice
    assert "canary" not in said + advice + way.log


def test_a_web_page_in_place_of_the_key(way):
    (way.folder / "page").write_text("<html>log in here</html>")
    said = way.fetch()
    assert way.log == "ok GET http://repository.test/gpg\n"
    assert "a web page came in place of the file" in proxied.advice(way.host, said)
    assert "canary" not in said + way.log


def test_a_proxy_that_is_down(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    way = Way(tmp_path, port)
    said = way.fetch()
    assert "and the proxy does not answer: see that the proxy runs" in proxied.advice(way.host, said), said


def update(way: Way, proxy: ProxyUrl) -> subprocess.CompletedProcess[str]:
    """Run the real `apt-get update` in a folder of its own, with our file and a source outside."""
    root = way.folder / "apt"
    for folder in ("etc/apt.conf.d", "lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "status").write_text("")
    (root / "etc/apt.conf.d" / Path(APT).name).write_bytes(apt_text(proxy, None, (), ["repository.test"], []))
    (root / "etc/sources.list").write_text("deb [trusted=yes] http://repository.test/x ./\n")
    places = {
        "Dir::Etc": f"{root}/etc",
        "Dir::Etc::Parts": "apt.conf.d",
        "Dir::Etc::SourceList": "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": f"{root}/lists",
        "Dir::State::Status": f"{root}/status",
        "Dir::Cache": f"{root}/cache",
        "APT::Sandbox::User": "root",
    }
    (root / "apt.conf").write_text("".join(f'{key} "{value}";\n' for key, value in places.items()))
    environment = {"APT_CONFIG": f"{root}/apt.conf", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    return subprocess.run(
        ["apt-get", "-q", "update"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_real_apt_sends_the_login_and_its_failures_are_known(way):
    assert way.settings.http is not None
    (way.folder / "page").write_text("<html>log in here</html>")
    said = update(way, way.settings.http)
    assert "ok GET http://repository.test/x/./InRelease" in way.log
    assert "a web page came in place of the file" in proxied.advice(way.host, said.stdout + said.stderr), said
    (way.folder / "login").write_text("user:another")
    said = update(way, way.settings.http)
    assert "another login (407)" in proxied.advice(way.host, said.stdout + said.stderr), said
    with socket.create_server(("127.0.0.1", 0)) as taken:
        down = Way(way.folder, taken.getsockname()[1])
    assert down.settings.http is not None
    said = update(down, down.settings.http)
    assert "and the proxy does not answer" in proxied.advice(down.host, said.stdout + said.stderr), said
    assert "canary" not in said.stdout + said.stderr


def test_the_simulated_server_asks_for_a_tunnel_as_go_does(way, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", way.url)
    monkeypatch.setenv("NO_PROXY", "localhost,.corp.example")
    assert ollama_proxy.of("localhost") is ollama_proxy.of("a.corp.example") is None
    proxy = ollama_proxy.of("127.0.0.1")
    assert proxy is not None
    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        with socket.create_connection(("127.0.0.1", way.port)) as connection:
            ollama_proxy.tunnel(connection, proxy, "127.0.0.1", port)
            peer, _ = there.accept()
            with peer:
                connection.sendall(b"hello")
                assert peer.recv(5) == b"hello"
    assert f"ok CONNECT 127.0.0.1:{port}" in way.log
    (way.folder / "login").write_text("user:another")
    with (
        socket.create_connection(("127.0.0.1", way.port)) as connection,
        pytest.raises(OSError, match="Proxy Authentication Required"),
    ):
        ollama_proxy.tunnel(connection, proxy, "127.0.0.1", port)
