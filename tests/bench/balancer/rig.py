"""The bench's ground: a lab of its own, deployed by our own command, and the guide's nginx beside ours."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from provision.lab import faults
from provision.lab.lab import Lab
from provision.lab.shell import LabError
from provision.lab.spec import Spec
from tests.bench.balancer.client import Answer, Ask
from tests.bench.balancer.workload import PARALLEL, TOKENS_PER_SECOND

NAME = "bench-balancer"
OURS, GUIDES = 3008, 3009
_ROOT = Path(__file__).parents[3]
_NGINX = "/opt/provision/nginx/current/sbin/nginx"
_CONF = "/etc/guide-nginx.conf"


@dataclass(frozen=True)
class Place:
    """An instance: its host, its container, its address and its port."""

    host: str
    container: str
    address: str
    port: int

    @property
    def name(self) -> str:
        """`gpu-01/ollama1`, as the lab's faults and the balancer name the instance."""
        return f"{self.host}/{self.container}"


class Rig:
    """The deployed lab.

    Args:
        lab: the lab; two gpu hosts of two instances, and a balancer.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.balancer = lab.host("lb-01")
        self.places = [
            Place(host.name, f"ollama{number}", host.address, 3000 + number)
            for host in lab.hosts()
            if host.spec.group == "gpu"
            for number in (1, 2)
        ]
        self.slots = len(self.places) * PARALLEL

    def targets(self, variant: str) -> list[tuple[str, int]]:
        """The addresses for the requests of a variant: `guide`, `direct`, or else ours."""
        if variant == "direct":
            return [(place.address, place.port) for place in self.places]
        return [(self.balancer.address, GUIDES if variant == "guide" else OURS)]

    def deploy(self, **balancer: object) -> None:
        """`provision deploy`, with these settings of the balancer and defaults for the rest."""
        data = yaml.safe_load(self.lab.inventory.read_text())
        data["all"]["vars"]["ollama"]["num_parallel"] = PARALLEL
        data["all"]["vars"]["balancer"] = balancer
        path = self.lab.home / "bench.yaml"
        path.write_text(yaml.safe_dump(data))
        words = [sys.executable, "-m", "provision", "deploy", "--yes", "--json", "--inventory", str(path)]
        done = subprocess.run(words, cwd=_ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"deploy ended with exit code {done.returncode}\n{done.stderr[-4000:]}")

    def furnish(self) -> None:
        """Set the speed of the simulated servers, and start the guide's nginx beside ours, with the same program."""
        knobs = json.dumps({"tokens_per_second": TOKENS_PER_SECOND, "answer_tokens": 5000, "shared_speed": 0})
        for host in {place.host for place in self.places}:
            self.lab.host(host).write("/etc/provision-lab/knobs.json", knobs)
        servers = "\n".join(f"        server {place.address}:{place.port};" for place in self.places)
        text = Path(__file__).with_name("guide.conf").read_text().replace("@SERVERS@", servers)
        self.balancer.write(_CONF, text)
        self.balancer.run(["mkdir", "-p", "/var/cache/guide-nginx"])
        self.balancer.run([_NGINX, "-c", _CONF])

    def reload(self, variant: str) -> None:
        """Reload a variant's nginx, which also makes nginx forget failed servers."""
        if variant == "guide":
            self.balancer.run([_NGINX, "-c", _CONF, "-s", "reload"])
        else:
            self.balancer.run(["systemctl", "reload", "provision-nginx"])

    def kill(self, place: Place) -> None:
        """Kill an instance."""
        self.lab.host(place.host).run(["docker", "kill", place.container])

    def revive(self, place: Place) -> None:
        """Start an instance again, load its model, and make both balancers forget its failure."""
        self.lab.host(place.host).run(["docker", "start", place.container])
        deadline = time.monotonic() + 30
        ask = Ask("load", 1, place.address, place.port)
        while not self.play([ask], patience=10)[0].good:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{place.name} did not come back")
            time.sleep(0.2)
        self.reload("guide")
        self.reload("ours")

    @contextmanager
    def fault(self, place: Place, name: str) -> Iterator[None]:
        """A fault of an instance for as long as the block lasts; `dies` is one too."""
        if name == "dies":
            self.kill(place)
        else:
            faults.switch(self.lab, place.name, name, on=True)
        try:
            yield
        finally:
            if name != "dies":
                faults.switch(self.lab, place.name, name, on=False)
            self.revive(place)

    def play(self, asks: Iterable[Ask], *, how: str = "play", patience: float = 60.0) -> list[Answer]:
        """Send requests from the balancer's own network, where the instances' firewall lets us through."""
        with self.playing(asks, how=how, patience=patience) as finish:
            return finish()

    @contextmanager
    def playing(
        self, asks: Iterable[Ask], *, how: str = "play", patience: float = 60.0, clients: int = 0
    ) -> Iterator[Callable[[], list[Answer]]]:
        """Begin to send requests; the block gets a function to end them and return the answers."""
        job: dict[str, Any] = {"how": how, "patience": patience, "clients": clients, "asks": list(map(asdict, asks))}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(job, file)
            file.flush()
            network = self.lab.network.host_netns(self.balancer.name)
            words = ["ip", "netns", "exec", network, sys.executable, "-m", "tests.bench.balancer.client", file.name]
            with subprocess.Popen(words, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:

                def finish() -> list[Answer]:
                    said, _ = client.communicate()
                    if client.returncode:
                        raise RuntimeError("the client failed")
                    return [Answer(**one) for one in json.loads(said)]

                try:
                    yield finish
                finally:
                    client.kill()


@contextmanager
def rig(say: Callable[[str], None]) -> Iterator[Rig]:
    """Boot a lab, deploy to its hosts, and remove the lab at the end, whatever happens."""
    down()
    try:
        fresh = Rig(Lab.up(Spec(NAME, 2, 1, 2), install=True, say=say))
        say("deploying")
        fresh.deploy()
        fresh.furnish()
        yield fresh
    finally:
        down()


def down() -> None:
    """Remove the bench's lab, also the leftover of a killed run."""
    with suppress(LabError):
        Lab.find(NAME).down()
