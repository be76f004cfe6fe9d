"""The balancer's rendered configuration on a real nginx, in front of two real servers."""

import http.client
import itertools
import json
import select
import socket
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from provision.steps.ollama.engine import OLLAMA
from tests.real import balancer
from tests.real.balancer import Balancer
from tests.real.install.nginx import VERSION
from tests.real.install.programs import Programs
from tests.real.instance import Host, Instance, ask
from tests.real.models import CHAT
from tests.real.noted import Noted

pytestmark = pytest.mark.usefixtures("judged")
COUNTED = " ".join(map(str, range(1, 40)))
"""A prompt that the model continues for as long as it may."""


@pytest.fixture
def judged(noted: Noted) -> None:
    noted.judge("nginx", VERSION)


@pytest.fixture(scope="module")
def pair(host: Host, known: Path) -> list[Instance]:
    """Two running instances with the models; the chat model is loaded in both."""
    return [loaded(host.instance(name, known).start()) for name in ("ollama1", "ollama2")]


@pytest.fixture(scope="module")
def front(programs: Programs, pair: list[Instance], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with balancer.serving(programs.nginx, tmp_path_factory.mktemp("nginx"), pair) as running:
        yield running


def loaded(instance: Instance) -> Instance:
    """Load the chat model."""
    assert ask(instance.port, "POST", "/api/generate", {"model": CHAT, "stream": False})[0] == 200
    return instance


class Stream:
    """A request for a streamed answer. The request is on its way at once, and the answer is read on demand."""

    def __init__(self, port: int, tokens: int = 400) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        body = {"model": CHAT, "prompt": COUNTED, "raw": True, "options": {"num_predict": tokens}}
        self._connection.request("POST", "/api/generate", json.dumps(body), {"Content-Type": "application/json"})
        self._socket = self._connection.sock  # the connection forgets the socket as soon as the answer begins

    def has_come(self) -> bool:
        """Whether a byte of the answer is there, or was."""
        return "answer" in vars(self) or bool(select.select([self._socket], [], [], 0)[0])

    @cached_property
    def answer(self) -> http.client.HTTPResponse:
        """The answer, as soon as the header is there."""
        return self._connection.getresponse()

    @property
    def instance(self) -> str:
        """The name of the instance that answers, from the balancer."""
        return self.answer.headers.get("X-Instance", "")

    def frames(self, most: int = 100_000) -> list[tuple[float, dict[str, Any]]]:
        """Read frames, each with the time of its arrival in seconds. A broken stream just ends."""
        found: list[tuple[float, dict[str, Any]]] = []
        while len(found) < most:
            try:
                line = self.answer.readline()
            except (http.client.IncompleteRead, ConnectionError):
                line = b""
            if not line.strip():
                return found
            found.append((time.monotonic(), json.loads(line)))
        return found

    def leave(self) -> None:
        """Close the connection, as a client does that is not interested any more."""
        with suppress(OSError):  # nginx may have closed the connection already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._connection.close()


def pace(frames: list[tuple[float, dict[str, Any]]]) -> float:
    """Seconds between two frames, in the mean."""
    return (frames[-1][0] - frames[0][0]) / (len(frames) - 1)


def test_an_answer_is_not_buffered(front: Balancer, noted: Noted) -> None:
    frames = Stream(front.port, 60).frames()
    assert frames[-1][1]["done"] is True
    gaps = [1000 * (later[0] - sooner[0]) for sooner, later in itertools.pairwise(frames)]
    made = frames[-1][1]["eval_duration"] / 1e9
    spread = frames[-1][0] - frames[0][0]
    assert spread >= made / 2, f"the frames came within {spread:.2f} s, made in {made:.2f} s"
    assert len(frames) >= 20
    gap = f"median gap {statistics.median(gaps):.1f} ms"
    noted.evidence = f"{len(frames)} frames, {gap}; came in {spread:.2f} s, made in {made:.2f} s"


def test_a_full_balancer_refuses_at_once(front: Balancer, noted: Noted) -> None:
    """Each instance takes one request and lets four wait."""
    places = 2 * 5
    streams = [Stream(front.port) for _ in range(places + 4)]
    began = time.monotonic()
    refused: list[Stream] = []
    while len(refused) < 4 and time.monotonic() < began + 20:
        refused = [stream for stream in streams if stream.has_come() and stream.answer.status == 503]
        time.sleep(0.02)
    took = time.monotonic() - began
    body = refused[0].answer.read().decode() if refused else ""
    for stream in streams:
        stream.leave()
    assert len(refused) == 4
    assert refused[0].answer.headers["Retry-After"] == "5"
    assert refused[0].answer.headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"error": "no instance can take this request now, try again later"}
    noted.evidence = f"{places + 4} streams for {places} places: 4 x 503 after {took:.2f} s, Retry-After: 5, {body}"


def test_a_client_that_leaves_frees_the_instance(front: Balancer, pair: list[Instance], noted: Noted) -> None:
    both = [Stream(front.port, 1500), Stream(front.port, 1500)]
    paces = [pace(stream.frames(6)) for stream in both]
    assert {stream.instance for stream in both} == {f"gpu-01/{one.name}" for one in pair}, "each instance has one"
    for stream in both:
        stream.leave()
    began = time.monotonic()
    first = Stream(front.port, 8)
    assert first.answer.status == 200
    waited = time.monotonic() - began
    assert first.frames()[-1][1]["done"] is True
    rest = 1500 * min(paces)
    assert waited < rest / 4, f"{waited:.1f} s, and each of the left answers takes {rest:.1f} s"
    noted.evidence = f"the next answer began after {waited:.2f} s; each of the left answers takes {rest:.0f} s"


def test_an_instance_that_is_killed_under_load_is_left_out(front: Balancer, pair: list[Instance], noted: Noted) -> None:
    lost, other = pair
    running = [Stream(front.port, 1500), Stream(front.port, 1500)]
    for stream in running:
        assert stream.frames(5)
    waiting = [Stream(front.port, 8) for _ in range(2)]
    time.sleep(0.5)
    lost.kill()
    (cut,) = [stream for stream in running if stream.instance == f"gpu-01/{lost.name}"]
    (alive,) = [stream for stream in running if stream.instance == f"gpu-01/{other.name}"]
    frames = cut.frames()
    assert not (frames and frames[-1][1].get("done")), "the stream of the killed instance breaks off"
    assert alive.frames(5)
    alive.leave()
    assert [stream.answer.status for stream in waiting] == [200, 200]
    assert all(stream.frames()[-1][1]["done"] for stream in waiting)
    next_ones = Counter(Stream(front.port, 4).instance for _ in range(4))
    ways = sorted({stream.instance for stream in waiting})
    loaded(lost.start())
    assert f"gpu-01/{lost.name}" not in next_ones
    answered = f"both waiting requests are answered (X-Instance: {'; '.join(ways)})"
    noted.evidence = f"its stream breaks off; {answered}; the next 4 by the other instance"


@pytest.mark.parametrize("request_line", OLLAMA.refused)
def test_a_path_that_shows_or_changes_too_much_is_refused(
    request_line: str, front: Balancer, pair: list[Instance], noted: Noted
) -> None:
    before = [instance.log for instance in pair]
    method, path = request_line.split(" ", 1)
    status, _, text = ask(front.port, method, path, {} if method != "GET" else None)
    assert status in {400, 403, 405}
    assert [instance.log for instance in pair] == before, "no server has seen the request"
    noted.evidence = f"{status}: {text.strip()[:80]}"


def test_the_paths_of_clients_are_open(front: Balancer, noted: Noted) -> None:
    paths = ["/", "/api/version", "/api/tags", "/api/ps", "/v1/models", f"/v1/models/{CHAT}"]
    assert {path: ask(front.port, "GET", path)[0] for path in paths} == dict.fromkeys(paths, 200)
    noted.evidence = f"200: {' '.join(paths)}"


def test_a_browser_may_ask_from_its_own_machine_only(front: Balancer, noted: Noted) -> None:
    found = {}
    for origin in ("http://localhost:3000", "https://elsewhere.example"):
        with closing(http.client.HTTPConnection("127.0.0.1", front.port, timeout=30)) as connection:
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            connection.request("OPTIONS", "/api/chat", headers=headers)
            found[origin] = connection.getresponse().status
    assert found == {"http://localhost:3000": 204, "https://elsewhere.example": 403}
    noted.evidence = "preflight from localhost 204, from elsewhere 403"


def test_the_log_names_the_instance(front: Balancer, noted: Noted) -> None:
    Stream(front.port, 2).frames()
    time.sleep(0.2)
    row = json.loads(front.log.splitlines()[-1])
    assert row["status"] == 200
    assert row["instance"].startswith("gpu-01/ollama")
    noted.evidence = f"instance {row['instance']}, up_status {row['up_status']}"
