"""A gateway with keys, in front of three instances that record requests. The instances are SIMULATED."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from provision.roles.balancer_gateway import Client, Gateway, Key, Served
from tests.gateway import packaged_nginx, stub_instance
from tests.gateway.running import Reply, RunningGateway, running
from tests.gateway.stub_instance import StubInstance

CAP = 256 * 1024
ALICE, BOB, CAROL, OLD, GONE = (f"sk-prov-{name}-0123456789abcdef" for name in ("alice", "bob", "carol", "old", "gone"))
CHAT = "/v1/chat/completions"


def hashed(key: str) -> str:
    return sha256(key.encode()).hexdigest()


OPEN = Gateway(
    models={
        "deepseek-r1:32b": Served({"": "ollama"}, {"digest": "a" * 64, "size": 7}),
        "tiny:latest": Served({"": "ollama_2", "line": "line_2"}),
    },
    cap=CAP,
)
"""Nobody needs a key."""
KEYED = replace(
    OPEN,
    clients=(Client("alice"), Client("bob", models=("tiny:latest",)), Client("carol", pool="line"), Client("cli")),
    keys=(
        Key(hashed(ALICE), "alice"),
        Key(hashed(BOB), "bob", expires=4_000_000_000),
        Key(hashed(CAROL), "carol"),
        Key(hashed(OLD), "alice", expires=1),
        Key(hashed(GONE), "alice", revoked=True),
    ),
)


class Balancer:
    """A running gateway in front of three recording instances."""

    def __init__(self, gateway: RunningGateway, instances: Sequence[StubInstance]) -> None:
        self.gateway = gateway
        self.instances = instances

    def ask(self, method: str, path: str, body: Any = None, key: str = ALICE, **headers: str) -> Reply:
        """Send a request with a key."""
        given = {"Authorization": f"Bearer {key}"} if key else {}
        return self.gateway.ask(method, path, body, **given, **headers)

    def post(self, path: str, body: Any, key: str = ALICE, **headers: str) -> Reply:
        """Send a body with a key."""
        return self.ask("POST", path, body, key, **headers)

    def taken(self) -> list[tuple[str, Any]]:
        """Return the upstream and the body of every request that has reached an instance, and forget the requests."""
        requests = [request for instance in self.instances for request in instance.take()]
        return [(request.instance, request.json if request.body else None) for request in requests]


@contextmanager
def balancing(folder: Path, gateway: Gateway, **more: Any) -> Iterator[Balancer]:
    with (
        stub_instance.serving("ollama") as first,
        stub_instance.serving("ollama_2") as second,
        stub_instance.serving("line_2") as own,
    ):
        ports = {instance.name: [instance.port] for instance in (first, second, own)}
        with running(packaged_nginx.unpacked(), folder, gateway, ports, **more) as started:
            yield Balancer(started, (first, second, own))


def message(reply: Reply) -> str:
    """Return the text of an error, from the shape of whichever API."""
    error = reply.json["error"]
    return str(error if isinstance(error, str) else error["message"])
