"""A second engine, as small as an engine can be: all that it takes is in this file, in place of a folder of steps and a
role."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from provision.command import Run, Script, sh
from provision.inventory import Host, Instance, Inventory, Serving
from provision.inventory import Settings as Base
from provision.steps import nvidia_smi
from provision.steps.base import Check, Step
from provision.steps.docker.image import Image
from provision.steps.docker.probe import Probe
from provision.steps.instance import boot, endpoint, storage
from provision.steps.instance.conflicts import Holders
from provision.steps.instance.container import Container, OwnedContainers
from provision.steps.instance.create_arguments import volume
from provision.steps.instance.engine import Engine, Variables
from provision.steps.instance.previous import OwnedPrevious
from provision.steps.system.file import File

TEST = Script("echo/readiness", 'echo "at $1"')


def readiness(instance: str, models: Sequence[str], *, any_model: bool = False) -> Run:
    """The test of an instance."""
    return sh(TEST, instance, *models[:1], title=f"test {instance}: it echoes")


def stream(
    live: Any,
    url: str,
    model: str,
    serving: Mapping[str, str],
    config: str = "",
    versions: Sequence[str] = (),
) -> Iterator[Check]:
    """The proof of a stream."""
    yield Check("an echo through the balancer", live.run("echo %s", url).stdout, model)


ECHO = Engine(
    name="echo",
    title="Echo",
    probe=Probe(label="echo", port=8000, home="/var/echo", health="/health", asks=("/v1/models",)),
    variables=Variables(prefixes=("ECHO_",), complaint=lambda name: "" if name.startswith("ECHO_") else "unknown"),
    start_timeout=1200,
    boot_timeout=1800,
    client_paths=("/health", "/tokenize"),
    open_paths=("/health",),
    refused=("POST /shutdown",),
    canonical=str,
    unusable=lambda image, card: "",
    readiness=readiness,
    stream=stream,
)


class EchoInstance(Base):
    """One instance."""

    gpus: tuple[int, ...]
    """Its cards."""


class Settings(Base):
    """The role's settings."""

    image: str = "echo/server:1.0"
    """The image."""
    models: tuple[str, ...] = ("parrot",)
    """The models of every instance."""
    instances: tuple[EchoInstance, ...] = ()
    """The instances of a host."""
    listen_address: str = ""
    """Where they listen."""


def serving(settings: Settings) -> Serving:
    """What holds for every instance."""
    return Serving(engine=ECHO.name, image=settings.image, listen_address=settings.listen_address)


def instances(host_name: str, settings: Settings) -> tuple[Instance, ...]:
    """The instances of a host."""
    common = vars(serving(settings))
    return tuple(
        Instance(host=host_name, name=f"echo{n}", gpus=one.gpus, port=3000 + n, models=settings.models, **common)
        for n, one in enumerate(settings.instances, 1)
    )


def steps(host: Host, inventory: Inventory) -> Iterator[Step]:
    """The steps of a gpu host with such instances."""
    own = [instance for instance in host.instances if instance.engine == ECHO.name]
    if not own:
        return
    address = partial(endpoint.listen_address, host, inventory)
    cards = {instance.name: instance.gpus for instance in own}
    ports = {instance.name: instance.port for instance in own}
    yield Holders(cards=cards, ports=ports, address=address)
    yield Image(reference=host.serving.image)
    yield from boot.firewall_steps(host, inventory, ECHO)
    yield from boot.start_steps(host, address, {instance.name: instance.models for instance in own}, ECHO)
    yield File(path=nvidia_smi.RECORD, content=lambda facts: nvidia_smi.record_text(facts.record))
    yield from storage.steps(own)
    for instance in own:
        yield Container(
            name=instance.name,
            engine=ECHO,
            image=instance.image,
            gpus=instance.gpus,
            port=instance.port,
            address=address,
            environment={"ECHO_VOICE": "loud"},
            mounts=(volume(instance.name, ECHO.probe.home),),
        )


ROLE: dict[str, Any] = {
    "Settings": Settings,
    "OWNED": (OwnedContainers(engine=ECHO), OwnedPrevious(engine=ECHO)),
    "DECLARES_INSTANCES": True,
    "SERVES": True,
    "STARTS_CONTAINERS": True,
    "steps": steps,
    "instances": instances,
    "serving": serving,
}
"""The attributes of the role's module."""
