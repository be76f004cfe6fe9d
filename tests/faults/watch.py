"""Whether those whom a fault does not concern notice anything of it."""

import threading
import time
import urllib.request
from typing import Self

from provision.lab.lab import Lab

BALANCER = "lb-01"
MODEL = "deepseek-r1:1.5b"
STARTED = """
command -v docker >/dev/null && systemctl -q is-active docker || exit 0
ids=$(timeout 5 docker ps -aq) && [ -n "$ids" ] || exit 0
docker inspect --format '{{.Name}} {{.Id}} {{.State.StartedAt}}' $ids
"""


class Watch:
    """Notes when the containers of other hosts were started, and asks the balancer all the time.

    Args:
        lab: the lab.
        victim: the host on which the fault is.
        balancer: whether the balancer has to answer all along.
    """

    def __init__(self, lab: Lab, victim: str, *, balancer: bool) -> None:
        self._lab = lab
        self._others = [host.name for host in lab.hosts() if host.name not in (victim, BALANCER)]
        self._asked = balancer
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)
        self.answers = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Self:
        self._before = self._started()
        if self._asked:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._asked:
            self._thread.join()

    def containers(self, host: str) -> str:
        """The containers of a host, with the time they were started."""
        found = self._lab.host(host)
        return found.run(["sh", "-c", STARTED]).stdout if found.running else ""

    def check(self, lost: int = 0) -> None:
        """Make sure that nobody noticed anything.

        Args:
            lost: requests that may never have been answered, where a host fell silent that had them.
        """
        self._stop.set()
        assert self._started() == self._before, "containers of other hosts were restarted"
        failed = f"{len(self.wrong)} requests failed of {self.answers + len(self.wrong)}: {self.wrong}"
        assert [one for one in self.wrong if "timed out" not in one] == [], failed
        assert len(self.wrong) <= lost, failed
        assert self.answers or not self._asked

    def _started(self) -> dict[str, str]:
        return {name: self.containers(name) for name in self._others}

    def _ask_on(self) -> None:
        begun = time.monotonic()
        while not self._stop.wait(0.3):
            try:
                ask(self._lab)
                self.answers += 1
            except (OSError, ValueError) as error:
                self.wrong.append(f"after {time.monotonic() - begun:.1f} s: {error!r}")


def ask(lab: Lab, timeout: float = 30) -> None:
    """Ask the balancer for the models, which an instance answers; an error where no whole answer comes."""
    url = f"http://{lab.host(BALANCER).address}:3008/api/tags"
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        if MODEL not in answer.read().decode():
            raise ValueError("the answer is not an instance's")
