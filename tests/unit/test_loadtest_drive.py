"""Real Locust against a server on loopback that fails in every way."""

import contextlib
import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from provision.errors import ProvisionError
from provision.inventory import Secret
from provision.loadtest import drive, locust_page
from provision.loadtest.drive import Load
from provision.loadtest.measure import Tally
from provision.loadtest.profile import Profile

KEY = "zq6canary-key" + "x" * 1500  # as long as a key of an identity provider
TOKEN = b'{"response":"a","done":false}\n'
LAST = b'{"response":"","done":true,"eval_count":2}\n'
ENDINGS = ("whole", "401", "429", "503", "500", "cut", "error", "hang", "nothing", "redirect", "slow head")


class Fake(BaseHTTPRequestHandler):
    """Ends each answer in the next way of `endings`."""

    protocol_version = "HTTP/1.1"
    endings: itertools.cycle

    def do_GET(self):
        """Answer the requests before the load."""
        body = b'{"version":"1","models":[{"name":"m:1b"}]}'
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        ending = next(self.endings)
        if ending == "nothing":
            self.close_connection = True
            return
        if ending == "slow head":
            for letter in b"HTTP/1.1 200 OK":
                self.connection.send(bytes([letter]))
                time.sleep(0.3)
            return
        if ending == "plain":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + TOKEN)
            time.sleep(2)
            self.wfile.write(TOKEN)
            time.sleep(0.1)
            self.wfile.write(LAST)
            self.close_connection = True
            return
        self.send_response(int(ending) if ending.isdigit() else 307 if ending == "redirect" else 200)
        self.send_header("X-Instance", "gpu-01/ollama1")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Location", "http://[")
        self.end_headers()
        if ending.isdigit():
            self.chunk(f"not with {self.headers.get('Authorization')}".encode())
        else:
            self.chunk(TOKEN)
            time.sleep(60 if ending == "hang" else 0.02)
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
    """Start a server; returns the URL."""
    servers = []

    def start(*endings):
        handler = type("Handler", (Fake,), {"endings": itertools.cycle(endings)})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def driven(*targets, **rest):
    tally = Tally()
    given = {"users": 10, "spawn_rate": 100.0, "seconds": 60.0, "timeout": 60.0, "most_failures": 1.0, **rest}
    load = Load(targets, Profile("generate", "m", 8), **given)
    return drive.run(load, tally, lambda found: None, threading.Event()), tally


def test_every_kind_of_failure_is_recorded_and_the_key_is_not(endpoint, unused_tcp_port):
    refusing = f"http://127.0.0.1:{unused_tcp_port}"
    ended, tally = driven(endpoint(*ENDINGS), refusing, users=36, seconds=8.0, timeout=2.0, key=Secret(KEY))
    assert ended.why == ""
    kinds = {record.problem for record in tally.records}
    known = {"", "401", "429", "503", "HTTP 500", "HTTP 307", "cut stream", "error in stream", "timeout", "no answer"}
    assert kinds == known | {"refused"}
    whole = next(record for record in tally.records if not record.problem)
    assert (whole.tokens, whole.instance, len(whole.gaps)) == (2, "gpu-01/ollama1", 0)
    assert sum(tally.gaps["gpu-01/ollama1"].values()) > 0
    assert all(record.total < 60 for record in tally.records), "a hanging answer ends at its timeout"
    assert len({record.at for record in tally.records}) == tally.count >= 24, "each request leaves a record"
    said = " ".join(record.detail for record in tally.records)
    assert "not with Bearer ***" in said
    assert KEY[:14] not in said


@pytest.fixture
def unused_tcp_port():
    """A port without a listener. The socket keeps other processes from the port, and Locust may still listen there."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_a_load_ends_after_the_given_number_of_requests(endpoint):
    ended, tally = driven(endpoint("whole"), users=2, most_requests=30)
    assert "30 requests were made" in ended.why
    assert (ended.guarded, 30 <= tally.count < 300) == (False, True)


def test_a_load_ends_when_too_many_requests_fail(endpoint):
    ended, tally = driven(endpoint("whole", "503"), most_failures=0.2)
    assert (ended.guarded, tally.failures > 0) == (True, True)


def test_several_processes_share_the_users(endpoint):
    ended, tally = driven(endpoint("whole"), users=4, processes=2, most_requests=20)
    assert "20 requests were made" in ended.why
    assert (tally.failures, tally.count >= 20) == (0, True)


def test_configuration_files_of_locust_and_proxies_have_no_effect(endpoint, monkeypatch, tmp_path):
    (tmp_path / "locust.conf").write_text("users = 0\nheadless = false\nfoo = bar\n")
    (tmp_path / ".locust.conf").write_text("host = http://127.0.0.1:9\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCUST_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    _, tally = driven(endpoint("whole"), users=2, most_requests=5)
    assert (tally.count > 0, tally.failures) == (True, 0)


def test_a_body_without_chunks_is_read_as_the_bytes_arrive(endpoint):
    _, tally = driven(endpoint("plain"), users=1, most_requests=1)
    whole = tally.records[0]
    assert (whole.problem, whole.tokens, whole.arrivals) == ("", 2, 2)
    assert whole.ttft < whole.total / 2


def test_a_killed_locust_is_an_error(endpoint):
    url = endpoint("whole")
    with pytest.raises(ProvisionError, match="exit code -9"):
        driven_and(lambda pids: os.kill(pids[0], signal.SIGKILL), url, seconds=300.0)


def test_a_killed_worker_is_an_error(endpoint):
    url = endpoint("whole")
    with pytest.raises(ProvisionError, match="one of Locust's processes"):
        driven_and(lambda pids: os.kill(pids[-1], signal.SIGKILL), url, seconds=300.0, processes=2)


def driven_and(do, *targets, **rest):
    """Drive a load, and call `do` with Locust's process ids once there are answers."""
    tally = Tally()
    given = {"users": 4, "spawn_rate": 100.0, "timeout": 60.0, "most_failures": 1.0, **rest}
    load = Load(targets, Profile("generate", "m", 8), **given)
    done = []

    def show(found):
        if found.count > 10 and not done:
            done.append(True)
            do(locusts())

    return drive.run(load, tally, show, threading.Event()), tally


def locusts():
    """Return the ids of the Locust processes below this process, the leader first."""
    found = [pid for pid in processes() if b"locustfile" in read(Path(f"/proc/{pid}/cmdline"))]
    ours = [pid for pid in found if ancestor(pid, os.getpid())]
    return sorted(ours, key=lambda pid: (os.getsid(pid) != pid, pid))


def processes():
    return [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]


def read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def ancestor(pid, wanted):
    while pid > 1:
        if pid == wanted:
            return True
        fields = read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
        pid = int(fields[1]) if fields else 0
    return False


def test_a_killed_command_leaves_no_load_and_no_key_behind(endpoint, tmp_path):
    (tmp_path / "key").write_text(KEY)
    words = ["loadtest", "-i", "/nonexistent", "--target", endpoint("whole"), "--yes", "--model", "m:1b"]
    argv = [sys.executable, "-m", "provision", *words, "--api-key", f"file:{tmp_path / 'key'}", "--duration", "5m"]
    with subprocess.Popen(argv, env={**os.environ, "TMPDIR": str(tmp_path)}, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: list(tmp_path.glob("*/records/*")))
        process.kill()
    wait_for(lambda: not list(tmp_path.glob("provision-loadtest-*")))
    wait_for(lambda: not any(str(tmp_path).encode() in read(Path(f"/proc/{pid}/environ")) for pid in processes()))


def test_sigterm_ends_a_load_test_with_the_figures_so_far(endpoint, tmp_path):
    words = ["loadtest", "-i", "/nonexistent", "--target", endpoint("whole"), "--yes", "--model", "m:1b", "--json"]
    argv = [sys.executable, "-m", "provision", *words, "--duration", "5m"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: list(tmp_path.glob("*/records/*")))
        process.terminate()
        document = json.loads(process.communicate(timeout=120)[0])
    assert (process.returncode, document["exit"], document["stopped"]) == (130, 130, "interrupted")
    assert document["overall"]["requests"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_locusts_page_shows_first_token_and_tokens_per_second(endpoint, unused_tcp_port, tmp_path, processes):
    words = ["loadtest", "-i", "/nonexistent", "--target", endpoint("whole"), "--yes", "--model", "m:1b"]
    words += ["--web", "--web-port", str(unused_tcp_port), "--profile", "generate", "--processes", str(processes)]
    argv = [sys.executable, "-m", "provision", *words]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            wait_for(lambda: fetched(unused_tcp_port, "/"))
            page = fetched(unused_tcp_port, "/")
            fetched(unused_tcp_port, "/swarm", b"user_count=3&spawn_rate=10")
            wait_for(lambda: "m:1b" in shown_on(unused_tcp_port))
            document = json.loads(fetched(unused_tcp_port, "/stats/requests"))
        finally:
            process.terminate()
            said = process.communicate(timeout=120)[1].decode()
    assert f"http://127.0.0.1:{unused_tcp_port}/?tab=tokens" in said
    arguments = json.loads(re.search(r"window.templateArgs = (.*)", page)[1])
    assert [tab["key"] for tab in arguments["extended_tabs"]] == ["tokens"]
    columns = [column["key"] for column in arguments["extended_tables"][0]["structure"]]
    assert locust_page.HIDDEN + "</head>" in page
    assert [one["key"] for one in document["extended_stats"]] == ["tokens"]
    rows = document["extended_stats"][0]["data"]
    assert [row["instance"] for row in rows] == ["gpu-01/ollama1", "all"]
    assert all(list(row) == columns for row in rows)
    assert all(isinstance(row[key], float) for row in rows for key in ("firsta", "firstb", "ratea", "all"))
    assert {row["name"] for row in document["stats"]} == {"m:1b", "Aggregated"}
    assert document["stats"][0]["avg_content_length"] == len(TOKEN + TOKEN + LAST)


def fetched(port, path, body=None):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", body, timeout=60) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def shown_on(port):
    """Return the names of Locust's own rows."""
    document = json.loads(fetched(port, "/stats/requests") or '{"stats": []}')
    return {row["name"] for row in document["stats"]}


def test_every_advertisement_of_locusts_page_is_known():
    """A newer Locust may move the advertisement: then the hidden address is another, and this list too."""
    folder = importlib.util.find_spec("locust").submodule_search_locations[0]
    scripts = Path(folder, "webui").rglob("*.js")
    links = {link for script in scripts for link in re.findall(r"href:`(https://[^`$]*)", script.read_text())}
    foreign = {link for link in links if not re.match(r"https://(docs\.locust\.io|github\.com)/", link)}
    assert {link for link in foreign if link.startswith(locust_page.ADVERTISED)}
    assert {link for link in foreign if not link.startswith(locust_page.ADVERTISED)} == {
        "https://medium.com/locust",
        "https://twitter.com/jonatanheyman",
    }


def wait_for(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_failed_start_of_locust_is_reported_with_its_output(monkeypatch):
    monkeypatch.setattr(drive, "_words", lambda load, web: ["sh", "-c", "echo no module named locust >&2; exit 3"])
    with pytest.raises(ProvisionError, match="exit code 3") as caught:
        driven("http://127.0.0.1:9")
    assert "no module named locust" in caught.value.hint
