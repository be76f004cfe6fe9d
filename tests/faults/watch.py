"""Whether hosts and clients outside a fault notice anything of it."""

import contextlib
import itertools
import json
import threading
import time
import urllib.request
from contextlib import AbstractContextManager
from typing import Self

from provision.lab.lab import Lab

BALANCER = "lb-01"
MODEL = "deepseek-r1:1.5b"
STREAMED = 4  # one in so many requests is a streamed answer
STARTED = """
command -v docker >/dev/null && systemctl -q is-active docker || exit 0
ids=$(timeout 5 docker ps -aq) && [ -n "$ids" ] || exit 0
docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}}' $ids
"""


class Watch:
    """Notes when the containers of other hosts were started, and asks the balancer all the time.

    Args:
        lab: the lab.
        victim: the host with the fault.
        balancer: whether the balancer has to answer all along.
        hanging: label of an instance that takes requests and never answers. From outside the hang is invisible, so
            requests to the instance are lost until the balancer has it down, and no later request is.
        cable: held while a request is under way, or while the cable changes.
        streams: whether some requests are streamed answers.
        goes: whether the fault takes the victim's instances away, with their streams. Then the watch streams no answer
            while the balancer sends requests to the victim.

    Attributes:
        served: whether the balancer ever sent requests to the victim meanwhile. A host in its first deploy serves too,
            from the second run on: recovery admits the instances that the first run left out.
    """

    def __init__(
        self,
        lab: Lab,
        victim: str,
        *,
        balancer: bool,
        hanging: str = "",
        cable: AbstractContextManager | None = None,
        streams: bool = False,
        goes: bool = False,
    ) -> None:
        self._lab = lab
        self._victim = victim
        self._cable = cable or contextlib.nullcontext()
        self._hanging = hanging
        self._out = 0.0
        self._others = [host.name for host in lab.hosts() if host.name not in (victim, BALANCER)]
        self._asked = balancer
        self._streams, self._goes = streams, goes
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on)] if balancer else []
        self._threads += [threading.Thread(target=self._await_out)] if hanging else []
        self.answers = 0
        self.served = False
        self.wrong: list[str] = []
        self.late: list[str] = []

    def __enter__(self) -> Self:
        self._before = self._started()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def containers(self, host: str) -> str:
        """The containers of a host, with their start times."""
        machine = self._lab.host(host)
        return machine.run(["sh", "-c", STARTED]).stdout if machine.running else ""

    def check(self, lost: int = 0) -> None:
        """Make sure that nobody noticed anything.

        Args:
            lost: requests that may stay unanswered, because a silent host had taken them.
        """
        self._stop.set()
        assert self._started() == self._before, "containers of other hosts were restarted"
        failed = f"{len(self.wrong)} requests failed of {self.answers + len(self.wrong)}: {self.wrong}"
        assert [error for error in self.wrong if "timed out" not in error] == [], failed
        if self._hanging:
            assert self._out, f"{self._hanging} was never taken out"
            assert self.late == [], failed
        else:
            assert len(self.wrong) <= lost, failed
        assert self.answers or not self._asked

    def _started(self) -> dict[str, str]:
        return {name: self.containers(name) for name in self._others}

    def _ask_on(self) -> None:
        begun = time.monotonic()
        for number in itertools.count():
            if self._stop.wait(0.3):
                return
            asked, out = time.monotonic(), self._out
            try:
                serves = self._up(f"{self._victim}/")
                self.served |= serves
                streamed = self._streams and number % STREAMED == 0 and not (self._goes and serves)
                with self._cable:
                    stream(self._lab) if streamed else ask(self._lab)
                self.answers += 1
            except (OSError, ValueError) as error:
                said = f"{asked - begun:.1f} to {time.monotonic() - begun:.1f} s: {error!r}"
                self.wrong.append(said)
                self.late += [said] if out else []

    def _await_out(self) -> None:
        """Note when the balancer first has the hanging instance down."""
        while not self._stop.wait(0.05):
            if not self._up(self._hanging) and self._is_loaded():
                time.sleep(2)  # the workers of before take no requests any more
                self._out = time.monotonic()
                return

    def _is_loaded(self) -> bool:
        """Whether the balancer's nginx has loaded the linked configuration."""
        host = self._lab.host(BALANCER)
        said = host.run(["curl", "-s", "--max-time", "10", "http://127.0.0.1:8080/generation"], check=False).stdout
        return said.strip() == (host.disk.root / "etc/provision/nginx").readlink().name

    def _up(self, label: str) -> bool:
        """Whether a member whose label begins so is in the balancer's upstream and not down."""
        root = self._lab.host(BALANCER).disk.root
        try:
            link = (root / "etc/provision/nginx").readlink()
            text = (root / str(link).lstrip("/") / "upstream.conf").read_text()
        except OSError:
            return True  # without a file there is no proof that the instance is out
        return any(f"# {label}" in line and " down;" not in line for line in text.splitlines())


def stream(lab: Lab, timeout: float = 30) -> None:
    """Ask the balancer for a streamed answer of a second.

    Raises:
        ValueError: the stream was cut.
    """
    url = f"http://{lab.host(BALANCER).address}:3008/api/generate"
    body = json.dumps({"model": MODEL, "prompt": "watch", "options": {"num_predict": 60}}).encode()
    with urllib.request.urlopen(url, body, timeout=timeout) as answer:
        *_, last = answer
        if not json.loads(last).get("done"):
            raise ValueError("the stream was cut")


def ask(lab: Lab, timeout: float = 30) -> None:
    """Ask the balancer for the models, a question that an instance answers.

    Raises:
        ValueError: the answer is not an instance's.
    """
    url = f"http://{lab.host(BALANCER).address}:3008/api/tags"
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        if MODEL not in answer.read().decode():
            raise ValueError("the answer is not an instance's")
