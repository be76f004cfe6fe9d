"""A small fleet for the tests of nginx and the balancer."""

from typing import Any

from provision.inventory import Connection, Host, Instance, Inventory
from provision.roles import balancer, nginx
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.system.file_scan import Content


def host(name: str, *groups: str, address: str = "", count: int = 0, **settings: Any) -> Host:
    """Return a host with `count` instances."""
    instances = tuple(
        Instance(host=name, name=f"ollama{n}", gpus=(n - 1,), port=3000 + n, models=("m:1",))
        for n in range(1, count + 1)
    )
    return Host(
        name=name,
        groups=groups,
        connection=Connection(address=address or name),
        settings={
            "nginx": nginx.Settings(**settings.get("nginx", {})),
            "balancer": balancer.Settings(**settings.get("balancer", {})),
        },
        instances=instances,
    )


def fleet(**settings: Any) -> Inventory:
    """Return an inventory of two gpu hosts with two instances each, and a balancer."""
    return Inventory(
        path="x",
        hosts=(
            host("gpu-01", "gpu", address="10.0.0.11", count=2),
            host("gpu-02", "gpu", address="10.0.0.12", count=2),
            host("lb-01", "balancer", address="10.0.0.5", **settings),
        ),
    )


def config(inventory: Inventory, name: str = "lb-01") -> Balancing:
    """Return the configuration step of a host."""
    return next(step for step in balancer.steps(inventory.host(name), inventory) if isinstance(step, Balancing))


def texts(step: Balancing, known: FleetState | None = None, have: Any = None, **facts: Any) -> dict[str, str]:
    """Return the files that the step wants, by name."""
    want = step.in_fleet(known or FleetState()).want(HostFacts(**facts), have)
    assert want is not None
    return {name: content.data.decode() for name, content in want["files"].items()}


def state(step: Balancing, **changes: str) -> dict[str, Any]:
    """Return the wanted state with some edited files, as the state of a host without a running nginx."""
    want = step.want(HostFacts(), None)
    assert want is not None
    files = {**want["files"], **{name: Content(text.encode()) for name, text in changes.items()}}
    return {**want, "files": files, "exe": "", "loaded": ""}
