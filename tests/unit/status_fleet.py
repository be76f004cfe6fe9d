"""A fleet for the tests of `provision status`: hosts with the answers of a test, without a shell."""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from provision import testing
from provision.actions import Request
from provision.inventory import Connection, Inventory
from provision.plan import role_interface
from provision.runs.setup import Setup
from provision.ssh.host_paths import HostPaths
from provision.steps import card_load
from provision.steps.docker import glance
from provision.steps.keepalived import holder
from provision.steps.nginx import in_flight, recent_log, upstream
from provision.steps.nginx.upstream import Drained
from provision.testing import FakeHost, Transport
from tests.unit.fake_balancer import FakeBalancer

NOW = 1_796_126_400.0  # 2026-12-01 12:00 UTC
INVENTORY = """
all: {vars: {nginx: {accept_known_vulnerabilities: true}}}
gpu:
  hosts:
    gpu-01: {ansible_host: 192.0.2.1}
    gpu-02: {ansible_host: 192.0.2.2}
    gpu-03: {ansible_host: 192.0.2.3}
  vars: {ollama: {models: ["llama3.1:8b"], instances: [{gpus: [0]}, {gpus: [1]}]}}
balancer: {hosts: {lb-01: {ansible_host: 192.0.2.5}}}
"""
GIB = 1 << 30
MODEL = {"name": "llama3.1:8b", "size": 6 * GIB, "size_vram": 6 * GIB, "context_length": 8192, "digest": "d1"}
QUIET = "refused 0\nunserved 0\nunread 0\ncovered 300\nend\n"


def card(number: int) -> str:
    """Return the UUID of a card."""
    return f"GPU-{number:08x}-0000-0000-0000-000000000000"


@dataclasses.dataclass
class FakeInstance:
    """An instance in Docker's words.

    Args:
        name: of its container.
        cards: UUIDs of its cards.
        status: of its container.
        models: entries of the list of loaded models; None for a server without an answer.
        sees: UUIDs that nvidia-smi lists inside, or its words.
        held: MiB that its process holds on its first card; None for no process.
        environment: variables of the server.
    """

    name: str
    cards: tuple[str, ...]
    status: str = "running"
    models: Sequence[Mapping[str, Any]] | None = (MODEL,)
    sees: str | None = None
    held: int | None = 6144
    environment: tuple[str, ...] = ("OLLAMA_KEEP_ALIVE=-1", "OLLAMA_CONTEXT_LENGTH=8192")

    def container(self, number: int) -> dict[str, Any]:
        """Return the container as the look at Docker shows it."""
        return {
            "id": identity(number),
            "name": f"/{self.name}",
            "status": self.status,
            "started": "2026-12-01T00:00:00Z",
            "image": "ollama/ollama:0.34.4",
            "image_id": "sha256:49f8",
            "labels": {"provision.instance": self.name, "provision.managed": "1"},
            "mounts": [],
            "env": list(self.environment),
            "requests": [{"DeviceIDs": list(self.cards), "Count": 0}],
            "ports": {"11434/tcp": [{"HostIp": "192.0.2.1", "HostPort": str(3000 + number)}]},
        }

    def probes(self, number: int) -> list[str]:
        """Return the lines about the running container."""
        if self.status != "running":
            return []
        listed = " ".join(f"GPU 0: NVIDIA L40S (UUID: {uuid})" for uuid in self.cards)
        return [f"{identity(number)} api {self._answers()}", f"{identity(number)} sees {self.sees or listed}"]

    def _answers(self) -> str:
        tags = json.dumps({"models": [{"name": "llama3.1:8b", "digest": "d1"}]})
        if self.models is None:
            said = "\n7 000 connection refused\n"
        else:
            said = f"\n0 200 \n{tags}\n0 200 \n{json.dumps({'models': list(self.models)})}\n0 200 \n"
        return base64.b64encode(said.encode()).decode()


def identity(number: int) -> str:
    """Return the id of a container."""
    return f"{number:064x}"


def docker(*instances: FakeInstance) -> str:
    """Return the answer of the look at Docker."""
    numbered = list(enumerate(instances, 1))
    rows = [
        f"{one.cards[0]}, {100 + number}, {one.held}, /usr/bin/ollama"
        for number, one in numbered
        if one.held is not None
    ]
    files = [f"/proc/{100 + number}/cgroup:0::/docker/{identity(number)}" for number, _ in numbered]
    listing = "\n".join(["", *rows, "(exit code 0)", *files])
    lines = ["# containers", *(json.dumps(one.container(number)) for number, one in numbered)]
    lines += ["# images", "# volumes", "# pulled", "# listening", "# files", "# probes"]
    lines += [line for number, one in numbered for line in one.probes(number)]
    lines += [f"host applications {base64.b64encode(listing.encode()).decode()}", "# end"]
    return "\n".join(lines) + "\n"


def load(*cards: str, **values: str) -> str:
    """Return the answer about the load of cards.

    Args:
        cards: UUIDs.
        values: field -> value of the first card, such as `temperature="91"`.
    """
    usual = {"used": "6500", "total": "46068", "busy": "37", "temperature": "54", "errors": "[N/A]", "clocks": "0x0"}
    rows = []
    for number, uuid in enumerate(cards):
        row = {**usual, **(values if not number else {})}
        rows.append(", ".join([uuid, "NVIDIA L40S", *row.values()]))
    return "\n".join(["# load", *rows, "", "# exit", "0", "", "# end"]) + "\n"


class Balancer(FakeBalancer):
    """The balancer, with a log and streams of the test."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(files)
        self.runs = True
        self.answers |= {recent_log.TITLE: QUIET, in_flight.TITLE: "end\n", holder.TITLE: "10.0.0.5/24\nend\n"}

    def _read(self) -> bytes:
        said = super()._read()
        head = f"exe /opt/provision/nginx/x/sbin/nginx\nloaded {self.generation}\n# noted\nat 1 /x\n# now\nat 1 /x\n"
        return said.replace(b"# files\n", head.encode() + b"# files\n", 1) if self.runs else said

    def mark(self, **changes: Any) -> None:
        """Change marks of members, as `Upstream.updated`."""
        parsed = upstream.Upstream.parse(self.upstream)
        assert parsed is not None
        self.config[upstream.FILE] = parsed.updated(**changes).text.encode()

    def place(self, label: str) -> str:
        """Return `ADDRESS:PORT` of an instance."""
        return upstream.members(self.upstream)[label].at


class StatusFleet:
    """Three gpu hosts with two instances each behind a balancer; all is well at first.

    Args:
        folder: of the inventory.
        text: the inventory.
    """

    def __init__(self, folder: Path, text: str = INVENTORY) -> None:
        path = folder / "inventory.yaml"
        path.write_text(text)
        self.inventory: Inventory = role_interface.load(str(path))
        self.now = NOW
        self.hosts: dict[str, FakeHost] = {}
        self.lost: set[str] = set()
        """Names of the hosts that cannot be reached."""
        for number, host in enumerate(host for host in self.inventory.hosts if host.gpu):
            cards = (card(2 * number + 1), card(2 * number + 2))
            two = (FakeInstance("ollama1", cards[:1]), FakeInstance("ollama2", cards[1:]))
            self.hosts[host.name] = FakeHost({glance.TITLE: docker(*two), card_load.TITLE: load(*cards)})
        for host in self.inventory.group("balancer"):
            self.hosts[host.name] = Balancer.of(self.inventory, host.name)
        self.connections: list[str] = []
        """Names of the hosts, in the order of the transports."""
        setup: Setup = testing.setup(folder, self._connect)
        self.setup = dataclasses.replace(setup, clock=lambda: self.now)
        self.request = Request(str(path), setup=self.setup)
        self.words = ("-i", str(path))

    def cards(self, host: str) -> tuple[str, str]:
        """Return the UUIDs of the cards of a gpu host."""
        number = [one.name for one in self.inventory.hosts if one.gpu].index(host)
        return card(2 * number + 1), card(2 * number + 2)

    def instances(self, host: str, **first: Any) -> None:
        """Give a gpu host two instances, of which the first differs from a well instance."""
        cards = self.cards(host)
        two = (FakeInstance("ollama1", cards[:1], **first), FakeInstance("ollama2", cards[1:]))
        self.hosts[host].answers[glance.TITLE] = docker(*two)

    @property
    def balancer(self) -> Balancer:
        """The first balancer."""
        return next(host for host in self.hosts.values() if isinstance(host, Balancer))

    def _connect(self, connection: Connection, password: str | None, paths: HostPaths) -> Transport:
        name = next(host.name for host in self.inventory.hosts if host.connection == connection)
        self.connections.append(name)
        return _Way(self, name)


class _Way:
    """The way to a host, which may be lost at any time."""

    def __init__(self, fleet: StatusFleet, name: str) -> None:
        self._fleet = fleet
        self._host = fleet.hosts[name]
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name != "close" and self._name in self._fleet.lost:
            return getattr(FakeHost(lost_at=frozenset({1})), name)
        return getattr(self._host, name)


DRAIN = Drained("gpu-01/ollama1", "2026-12-01T11:00:00+00:00", "ops@desk", "a new driver")


def sick(folder: Path) -> StatusFleet:
    """Return a fleet in which a host is off, an instance is on the CPU, and an instance is drained.

    Args:
        folder: of the inventory.
    """
    fleet = StatusFleet(folder)
    fleet.lost.add("gpu-03")
    fleet.instances("gpu-02", held=0)
    fleet.hosts["gpu-02"].answers[card_load.TITLE] = load(*fleet.cards("gpu-02"), used="400", busy="0")
    fleet.balancer.mark(drain={DRAIN.label: DRAIN})
    busy, slow = fleet.balancer.place("gpu-01/ollama2"), fleet.balancer.place("gpu-02/ollama1")
    fleet.balancer.answers[recent_log.TITLE] = (
        f'instance ["{busy}",412,0,412,31200,1650]\ninstance ["{slow}",38,0,38,510,1100]\n'
        f'time ["{busy}",66,410]\ntime ["{busy}",72,2]\ntime ["{slow}",104,38]\n'
        "refused 9\nunserved 0\nunread 0\ncovered 300\nend\n"
    )
    fleet.balancer.answers[in_flight.TITLE] = f"{busy} 7\n{slow} 4\nend\n"
    run = [
        {"record": "begin", "time": "2026-12-01T10:00:00+00:00", "who": "ops@desk", "command": "deploy"},
        {"record": "end", "result": "changed", "changes": 9},
    ]
    lines = "\n".join(["# 9 20261201T100000Z-5e1f", *map(json.dumps, run)])
    for name in ("gpu-01", "gpu-02", "lb-01"):
        fleet.hosts[name].answers["read the journals"] = f"{lines}\n"
    return fleet
