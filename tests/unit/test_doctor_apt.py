"""Doctor asks the sources of apt by apt's own programs: a real apt, and a server on loopback with faults."""

import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.command import Answer
from provision.doctor import apt_sources
from provision.steps.base import UnreadableError

FILES = {
    "/debian/dists/trixie/InRelease": b"-----BEGIN PGP SIGNED MESSAGE-----\n",
    "/old/dists/trixie/Release": b"Origin: old\n",
    "/flat/./InRelease": b"-----BEGIN PGP SIGNED MESSAGE-----\n",
    "/portal/dists/trixie/InRelease": b"<html>log in</html>",
    "/large/dists/trixie/InRelease": bytes(apt_sources.BLOCKS * 512 + 1),
}


class Mirror(BaseHTTPRequestHandler):
    """A mirror with some files, which notes every path that is asked."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = FILES.get(self.path, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Stay silent."""


@pytest.fixture
def mirror() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    made.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield made
    made.shutdown()
    made.server_close()


def asked_of_apt(folder: Path, lines: list[str]) -> dict[str, Any]:
    """Return the state of a host whose apt has these sources."""
    (folder / "sources.list").write_text("".join(f"{line}\n" for line in lines))
    paths = f'Dir::Etc::sourcelist "{folder}/sources.list"; Dir::Etc::sourceparts "{folder}/none";\n'
    (folder / "apt.conf").write_text(f'{paths}Dir::State::lists "{folder}/lists"; Acquire::http::Proxy "DIRECT";\n')
    (folder / "work").mkdir()
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "APT_CONFIG": str(folder / "apt.conf")}
    env["TMPDIR"] = str(folder / "work")
    run = apt_sources.RUN
    done = subprocess.run(run.words, input=run.stdin, env=env, capture_output=True, check=False, timeout=90)
    assert [*(folder / "work").iterdir()] == []
    assert not (folder / "lists").exists(), "the check leaves apt's lists alone"
    return apt_sources.parse(Answer(done.returncode, done.stdout, done.stderr))


def test_each_fault_of_a_source_is_named_and_no_password_is_a_word(mirror, tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        base, nobody = (f"http://127.0.0.1:{port}" for port in (mirror.server_port, closed.getsockname()[1]))
        names = ("debian", "old", "portal", "gone", "large")
        lines = [f"deb {base}/{name} trixie main" for name in names]
        lines += [f"deb {base}/flat ./", f"deb {nobody}/debian trixie main", "deb cdrom:[x]/ trixie main"]
        lines += [f"deb http://user:canary@127.0.0.1:{mirror.server_port}/secret trixie main"]
        state = asked_of_apt(tmp_path, lines)
    assert (state["exit"], state["error"]) == (0, "")
    found = {entry["address"].removeprefix(base): entry for entry in state["sources"]}
    good = {name for name, entry in found.items() if not entry["exit"] and entry["signed"]}
    assert good == {"/debian/dists/trixie/InRelease", "/old/dists/trixie/InRelease", "/flat/./InRelease"}
    assert not found["/portal/dists/trixie/InRelease"]["signed"]
    assert "404" in found["/gone/dists/trixie/InRelease"]["why"]
    assert found["/large/dists/trixie/InRelease"]["exit"] != 0
    assert "refused" in found[f"{nobody}/debian/dists/trixie/InRelease"]["why"]
    assert "secret" not in repr(mirror.asked)
    assert "canary" not in repr(state)


def test_sources_that_apt_cannot_read_are_its_own_error(tmp_path):
    state = asked_of_apt(tmp_path, ["deb http://127.0.0.1/debian"])
    assert state["exit"] != 0
    assert "Malformed entry 1" in state["error"]


def test_only_so_many_sources_are_asked(mirror, tmp_path):
    base = f"http://127.0.0.1:{mirror.server_port}"
    state = asked_of_apt(tmp_path, [f"deb {base}/{number} trixie main" for number in range(40)])
    assert len(state["sources"]) == apt_sources.MOST


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.sampled_from("list source 0159 =-ab\n"), max_size=60), max_size=6))
def test_any_answer_is_a_state_or_refused(parts):
    try:
        state = apt_sources.parse(Answer(0, "\n".join([*parts, "end"]).encode()))
    except (UnreadableError, ValueError):
        return
    assert set(state) == {"exit", "error", "sources"}
