"""Doctor tries the logins of the inventory before a deploy: real curl, real servers on loopback, one of them by TLS."""

import base64
import os
import signal
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from provision.command import Answer, Run, describe
from provision.doctor import outside
from provision.doctor.check import Check, Subject
from provision.doctor.finding import Finding
from provision.doctor.outside import TRIED
from provision.inventory import Inventory
from provision.plan import role_interface
from tests.unit.test_doctor import facts_of

PASSWORD = "zq9canary"
FLEET = """
all:
  vars:
    nginx: {accept_known_vulnerabilities: true}
    docker: {registries: {REGISTRIES}}
    mirrors: {docker: "MIRROR"}
    ollama: {models: [deepseek-r1:1.5b], image: "IMAGE"}
  children: {gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}]}}}}}
"""
BASIC = f"Basic {base64.b64encode(f'bot:{PASSWORD}'.encode()).decode()}"


class Guarded(BaseHTTPRequestHandler):
    """A server that wants the login of `bot`. Below /v2/ the challenge is the server's; elsewhere as a web server's."""

    challenge = "Basic"

    def do_GET(self) -> None:
        may = self.headers.get("Authorization") == BASIC and (self.path != "/v2/" or self.challenge.startswith("Basic"))
        self.send_response(200 if may else 401)
        if not may:
            self.send_header("WWW-Authenticate", self.challenge if self.path == "/v2/" else "Basic")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody signed, with its key beside."""
    folder = tmp_path_factory.mktemp("tls")
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(words, check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.fixture
def server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[ThreadingHTTPServer]:
    """The server, by TLS where the test asks for TLS."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Guarded,), {}))
    if getattr(request, "param", ""):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        made.socket = context.wrap_socket(made.socket, server_side=True)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def load(folder: Path, *, mirror: str = "", registries: str = "{}", image: str = "ollama/ollama:1") -> Inventory:
    path = folder / "inventory.yaml"
    text = FLEET.replace("MIRROR", mirror).replace("{REGISTRIES}", registries).replace("IMAGE", image)
    path.write_text(text)
    return role_interface.load(str(path))


def probe_of(inventory: Inventory) -> tuple[Check, Any]:
    (check,) = outside.CHECKS
    look = check.look(inventory.hosts[0], inventory)
    assert look is not None
    return check, look


def examine(inventory: Inventory, folder: Path, certificate: Path) -> tuple[list[Finding], str]:
    """Return the findings about the addresses, and the words of every curl that ran."""
    check, look = probe_of(inventory)
    (folder / "curl").write_text(f'#!/bin/sh\necho "$*" >>{folder}/argv\nexec /usr/bin/curl "$@"\n')
    (folder / "curl").chmod(0o755)
    run: Run = look.reads[0]
    assert PASSWORD not in describe(run)
    variables = {"PATH": f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin", "CURL_CA_BUNDLE": str(certificate)}
    variables |= {"TMPDIR": str(folder)}
    done = subprocess.run(run.words, input=run.stdin, env=variables, capture_output=True, check=False, timeout=60)
    answers = [Answer(done.returncode, done.stdout, done.stderr), *[Answer(1)] * (len(look.reads) - 1)]
    said = done.stdout + done.stderr
    assert BASIC.split()[1].encode() not in said
    assert PASSWORD.encode() not in said
    subject = Subject(inventory.hosts[0], inventory, facts_of({}))
    return [*check.findings(look, answers, subject)], (folder / "argv").read_text()


def about(findings: list[Finding], word: str) -> list[str]:
    return [f"{found.verdict} {found.says}" for found in findings if word in found.says]


@pytest.mark.parametrize(
    ("password", "said"),
    [
        (PASSWORD, ["pass reached: mirrors.docker"]),
        (f"{PASSWORD}-old", ["fail mirrors.docker: 127.0.0.1 refuses the login of the inventory (401)"]),
    ],
)
def test_the_login_of_a_mirror_is_tried(server, tmp_path, certificate, password, said):
    inventory = load(tmp_path, mirror=f"http://bot:{password}@127.0.0.1:{server.server_port}/docker")
    found, words = examine(inventory, tmp_path, certificate)
    assert [text.partition(",")[0] for text in about(found, "mirrors.docker")] == said
    assert PASSWORD not in words + repr(found)
    cures = [each.cure for each in found if each.says.startswith("mirrors.docker: 127.0.0.1 refuses")]
    assert not [cure for cure in cures if "-v" in cure.split()], "curl -v prints the header with the login"
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == [], "the file with the logins is gone"


@pytest.mark.parametrize("server", ["tls"], indirect=True)
@pytest.mark.parametrize(
    "challenge",
    [
        'Basic realm="x"',
        'Bearer realm="https://{at}/token",service="a b"',
        'Bearer realm="https://{at}/token[1-99999]",service="x"',  # a range, to curl without -g
    ],
)
@pytest.mark.parametrize(("password", "verdict"), [(PASSWORD, "pass"), (f"{PASSWORD}-old", "fail")])
def test_the_login_of_a_registry_is_tried_as_docker_does(server, tmp_path, certificate, challenge, password, verdict):
    at = f"127.0.0.1:{server.server_port}"
    server.RequestHandlerClass.challenge = challenge.replace("{at}", at)
    registries = f'{{"{at}": {{username: bot, password: "{password}"}}}}'
    found, words = examine(load(tmp_path, registries=registries, image=f"{at}/a/b:1"), tmp_path, certificate)
    (said,) = about(found, "docker.registries")
    assert said.startswith(f"{verdict} {at} ")
    assert PASSWORD not in words + repr(found)
    assert base64.b64encode(f"bot:{password}".encode()).decode() not in words
    (cure,) = {each.cure for each in found if "docker.registries" in each.says}
    assert cure == ("" if verdict == "pass" else f"docker --config {TRIED} login -u bot {at}; rm -rf {TRIED}")


class Silent(BaseHTTPRequestHandler):
    """A server that is asked, and never answers."""

    def do_GET(self) -> None:
        self.server.asked.set()  # type: ignore[attr-defined]
        self.server.over.wait(60)  # type: ignore[attr-defined]


def test_no_login_stays_on_a_host_that_ends_the_script_after_its_time(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.asked, server.over = threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    _, look = probe_of(load(tmp_path, mirror=f"http://bot:{PASSWORD}@127.0.0.1:{server.server_port}/docker"))
    run: Run = look.reads[0]
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(tmp_path)}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(run.words, stdin=subprocess.PIPE, env=variables, start_new_session=True, **quiet) as shell:
        shell.stdin.write(run.stdin)
        shell.stdin.close()
        assert server.asked.wait(30)
        assert PASSWORD in next(tmp_path.glob("*/netrc")).read_text()
        os.killpg(shell.pid, signal.SIGTERM)  # as timeout(1) does
        shell.wait(30)
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("server", ["tls"], indirect=True)
def test_a_registry_that_sends_a_login_to_plain_http_gets_no_login(server, tmp_path, certificate):
    at = f"127.0.0.1:{server.server_port}"
    server.RequestHandlerClass.challenge = f'Bearer realm="http://{at}/token",service="x"'
    registries = f'{{"{at}": {{username: bot, password: "{PASSWORD}"}}}}'
    found, words = examine(load(tmp_path, registries=registries, image=f"{at}/a/b:1"), tmp_path, certificate)
    assert about(found, "docker.registries") == []
    assert "/token" not in words


def test_a_login_of_another_registry_is_not_sent(tmp_path):
    registries = f'{{"other.test": {{username: bot, password: "{PASSWORD}"}}}}'
    _, look = probe_of(load(tmp_path, registries=registries))
    assert b"logins=" not in look.reads[0].stdin.partition(b"set -u")[0]
