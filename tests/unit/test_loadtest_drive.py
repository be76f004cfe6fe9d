"""Real Locust against a server that fails in every way; on loopback."""

import contextlib
import itertools
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from provision.errors import ProvisionError
from provision.inventory import Secret
from provision.loadtest import drive
from provision.loadtest.drive import Load
from provision.loadtest.measure import Tally
from provision.loadtest.profile import Profile

KEY = "zq6canary-key"
TOKEN = b'{"response":"a","done":false}\n'
LAST = b'{"response":"","done":true,"eval_count":2}\n'
ENDINGS = ("whole", "401", "429", "503", "500", "cut", "error", "hang", "nothing", "redirect")


class Fake(BaseHTTPRequestHandler):
    """Ends each answer in the next way of `endings`."""

    protocol_version = "HTTP/1.1"
    endings: itertools.cycle

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        ending = next(self.endings)
        if ending == "nothing":
            self.close_connection = True
            return
        self.send_response(int(ending) if ending.isdigit() else 307 if ending == "redirect" else 200)
        self.send_header("X-Instance", "gpu-01/ollama1")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()
        if ending.isdigit():
            self.chunk(f"not with {self.headers.get('Authorization')}".encode())
        else:
            self.chunk(TOKEN)
            time.sleep(3 if ending == "hang" else 0.02)
            self.chunk(TOKEN)
        if ending in ("cut", "hang"):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if ending in ("whole", "error"):
            self.chunk(LAST if ending == "whole" else b'{"error":"out of memory"}\n')
        self.chunk(b"")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    """Start a server; gives its URL."""
    servers = []

    def start(*endings):
        handler = type("Handler", (Fake,), {"endings": itertools.cycle(endings)})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def driven(*targets, **rest):
    tally = Tally()
    given = {"users": 10, "spawn_rate": 100.0, "seconds": 2.0, "timeout": 1.0, "most_failures": 1.0, **rest}
    load = Load(targets, Profile("generate", "m", 8), **given)
    return drive.run(load, tally, lambda found: None), tally


def test_every_way_to_fail_is_told_apart_and_the_key_is_not_kept(endpoint, unused_tcp_port):
    ended, tally = driven(endpoint(*ENDINGS), f"http://127.0.0.1:{unused_tcp_port}", users=24, key=Secret(KEY))
    assert ended.why == ""
    kinds = {record.problem for record in tally.records}
    known = {"", "401", "429", "503", "HTTP 500", "HTTP 307", "cut stream", "error in stream", "timeout", "no answer"}
    assert kinds == known | {"refused"}
    whole = next(record for record in tally.records if not record.problem)
    assert (whole.tokens, whole.instance, len(whole.gaps)) == (2, "gpu-01/ollama1", 0)
    assert sum(tally.gaps["gpu-01/ollama1"].values()) > 0
    assert all(record.total < 3 for record in tally.records), "an answer that hangs ends at its timeout"
    said = " ".join(record.detail for record in tally.records)
    assert "not with Bearer ***" in said
    assert KEY not in said


@pytest.fixture
def unused_tcp_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_it_ends_after_so_many_requests(endpoint):
    ended, tally = driven(endpoint("whole"), most_requests=30, seconds=60.0)
    assert "30 requests were made" in ended.why
    assert (ended.guarded, 30 <= tally.count < 300) == (False, True)


def test_it_ends_when_too_much_fails(endpoint):
    ended, tally = driven(endpoint("whole", "503"), most_failures=0.2, seconds=60.0)
    assert (ended.guarded, tally.failures > 0) == (True, True)


def test_several_processes_share_the_users(endpoint):
    ended, tally = driven(endpoint("whole"), users=4, processes=2)
    assert (ended.why, tally.failures) == ("", 0)
    assert tally.count > 20


def test_locusts_own_configuration_and_proxies_have_no_say(endpoint, monkeypatch, tmp_path):
    (tmp_path / "locust.conf").write_text("users = 0\nheadless = false\nfoo = bar\n")
    (tmp_path / ".locust.conf").write_text("host = http://127.0.0.1:9\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCUST_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    _, tally = driven(endpoint("whole"), users=2, seconds=1.0)
    assert (tally.count > 0, tally.failures) == (True, 0)


def test_a_locust_that_does_not_start_is_said_with_its_words(monkeypatch):
    monkeypatch.setattr(drive, "_words", lambda load, web: ["sh", "-c", "echo no module named locust >&2; exit 3"])
    with pytest.raises(ProvisionError, match="exit code 3") as caught:
        driven("http://127.0.0.1:9")
    assert "no module named locust" in caught.value.hint
