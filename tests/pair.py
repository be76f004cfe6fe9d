"""A lab of two balancers with a common address, and clients that watch the address.

A probe makes new connections, and streams stay open. The model server and the card are simulated.
"""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from provision.lab.lab import Lab
from provision.lab.spec import Spec
from tests.fleet import KEEP, Fleet, wait_for

BALANCERS = ("lb-01", "lb-02")
PORT = 3008
LAST = 250  # last number of the common address
OFTEN = 0.1  # seconds between two requests of a probe
KNOBS = "/etc/provision-lab/knobs.json"


@dataclass
class Probe:
    """New requests, each on a connection of its own. A slow request delays no other request.

    Args:
        address: the common address.
    """

    address: str
    answers: list[tuple[float, float]] = field(default_factory=list)
    """When a request began, and when its answer came, in seconds of the monotonic clock; 0 for no answer."""
    _over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> bool:
        """Whether a request is answered within a second."""
        connection = http.client.HTTPConnection(self.address, PORT, timeout=1)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def run(self) -> None:
        """Ask until the end."""
        with ThreadPoolExecutor(max_workers=64) as requests:
            while not self._over.wait(OFTEN):
                requests.submit(self._note)
        self.answers.sort()

    def _note(self) -> None:
        begun = time.monotonic()
        self.answers.append((begun, time.monotonic() if self.ask() else 0.0))

    def end(self) -> None:
        """Ask no more."""
        self._over.set()

    @property
    def lost(self) -> int:
        """The number of requests without an answer."""
        return sum(not answer for _, answer in self.answers)

    @property
    def silence(self) -> float:
        """The longest time from the begin of a lost request to the next answer, in seconds."""
        longest, since = 0.0, None
        for begun, answer in sorted(self.answers):
            if answer:
                longest = max(longest, answer - since if since is not None else 0.0)
            since = None if answer else begun if since is None else since
        return longest


@dataclass
class Streaming:
    """A stream of an answer, in a thread of its own.

    Args:
        address: the common address.
        model: the model.
    """

    address: str
    model: str
    outcome: str = "open"
    """`open`, `whole`, `cut`, or the error of the connection."""
    tokens: int = 0
    thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        body = json.dumps({"model": self.model, "prompt": "Count."})
        connection = http.client.HTTPConnection(self.address, PORT, timeout=60)
        try:
            connection.request("POST", "/api/generate", body)
            last: dict[str, Any] = {}
            for line in connection.getresponse():
                last = json.loads(line)
                self.tokens += 1
            self.outcome = "whole" if last.get("done") else "cut"
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.outcome = f"{type(error).__name__}: {error}"
        finally:
            connection.close()

    def ended(self, seconds: float = 90) -> str:
        """Wait for the end, and return the outcome.

        Args:
            seconds: the longest wait.
        """
        self.thread.join(seconds)
        return self.outcome


class Pair(Fleet):
    """Two balancers with a common address in front of a gpu host."""

    @property
    def vip(self) -> str:
        """The common address."""
        return f"{self.address('lb-01').rpartition('.')[0]}.{LAST}"

    @property
    def model(self) -> str:
        """The model of the lab."""
        return str(self.vars["ollama"]["models"][0])

    def share(self) -> None:
        """Give the balancers the address in the inventory."""
        self.vars.setdefault("balancer", {})["vip"] = {"address": self.vip}

    def holders(self) -> list[str]:
        """The running balancers that have the address now."""
        hosts = [self.lab.host(name) for name in BALANCERS]
        shown = {host.name: host.run(["ip", "-4", "-o", "addr", "show"]).stdout for host in hosts if host.running}
        return [name for name, text in shown.items() if f" {self.vip}/" in text]

    def standby(self) -> str:
        """The balancer without the address."""
        return next(name for name in BALANCERS if name not in self.holders())

    def settled(self, holder: str = "") -> None:
        """Wait until exactly one balancer has the address.

        Args:
            holder: the balancer that has to have the address; empty for any.
        """
        wait_for(lambda: self.holders() == [holder] if holder else len(self.holders()) == 1, 60)

    def speed(self, per_second: float, tokens: int) -> None:
        """Set the simulated model server.

        Args:
            per_second: tokens in a second.
            tokens: tokens of an answer.
        """
        knobs = {"tokens_per_second": per_second, "answer_tokens": tokens, "shared_speed": 0}
        self.lab.host("gpu-01").write(KNOBS, json.dumps(knobs))

    @contextlib.contextmanager
    def probing(self) -> Iterator[Probe]:
        """Probe the address; the probe sees an answer before the begin and before the end."""
        probe = Probe(self.vip)
        wait_for(probe.ask, 60)
        thread = threading.Thread(target=probe.run, daemon=True)
        thread.start()
        try:
            time.sleep(3 * OFTEN)
            yield probe
            wait_for(probe.ask, 90)
            time.sleep(3 * OFTEN)
        finally:
            probe.end()
            thread.join()

    def stream(self) -> Streaming:
        """Begin a stream, and wait for its first token."""
        stream = Streaming(self.vip, self.model)
        wait_for(lambda: stream.tokens > 0 or stream.outcome != "open", 60)
        return stream


def made(name: str, folder: Path) -> Pair:
    """Return a pair in a lab of its own, deployed.

    Args:
        name: name of the lab.
        folder: folder for the inventory.
    """
    lab = Lab.up(Spec(name, 1, 2, 1), install=True)
    pair = Pair(lab, folder)
    pair.data = yaml.safe_load(Path(lab.inventory).read_text())
    pair.vars["ollama"]["num_parallel"] = 2  # one stream on each balancer while the address moves
    pair.share()
    pair.deploy()
    pair.settled()
    return pair


def taken_down(pair: Pair) -> None:
    """Take the lab down, unless labs are kept."""
    if not KEEP:
        pair.lab.down()
