"""The images and models that the inventory brings to a host, with the reads of their sizes and places.

The reads are those of a plan (`Step.filling`). Two things differ before the first deploy: the file with the proxy is
not on the host yet, so the variables ride in front of the script, and all registries are asked at once.
"""

import dataclasses
from dataclasses import dataclass

from provision.command import Answer, Run
from provision.inventory import Host, Inventory, shared_settings
from provision.inventory.direct import without_proxy
from provision.plan import role_interface
from provision.steps.docker.image_room import manifest_bytes
from provision.steps.room import Filling
from provision.steps.system import proxy


@dataclass(frozen=True)
class Thing:
    """An image or a model of the inventory.

    Args:
        step: id of the step that brings the thing.
        filling: the bytes, as the step tells.
        asked: the read of the size, beside the rest of the exec.
        is_model: whether the thing is a model.
    """

    step: str
    filling: Filling
    asked: Run
    is_model: bool

    @property
    def what(self) -> str:
        """The thing, in words."""
        return self.filling.what

    def size(self, answer: Answer) -> int | None:
        """Return the bytes of the whole thing; None where the registry did not tell.

        Args:
            answer: to `asked`.
        """
        return manifest_bytes(answer)


def of_host(host: Host, inventory: Inventory) -> tuple[Thing, ...]:
    """Return the images and models that the inventory brings to a host.

    Args:
        host: the host.
        inventory: the whole inventory.
    """
    variables, models = proxy_variables(host, inventory), role_interface.bringing_models()
    pairs = ((entry, entry.step.filling(None)) for entry in role_interface.steps(host, inventory))
    return tuple(
        Thing(entry.step.id, filling, beside(filling.size, variables), entry.role in models)
        for entry, filling in pairs
        if filling is not None
    )


def of_models(host: Host, inventory: Inventory) -> tuple[Thing, ...]:
    """Return the models that the inventory brings to a host, each once.

    Args:
        host: the host.
        inventory: the whole inventory.
    """
    return tuple({thing.asked: thing for thing in of_host(host, inventory) if thing.is_model}.values())


def proxy_variables(host: Host, inventory: Inventory) -> bytes:
    """Return the declared proxy as variables of a shell, which may hold a password; empty without a proxy.

    Args:
        host: the host.
        inventory: the whole inventory.
    """
    declared = shared_settings.proxy(host)
    if not (declared.http or declared.https):
        return b""
    return proxy.environment(declared.http, declared.https, without_proxy(host, inventory), upper=False)


def beside(run: Run, variables: bytes) -> Run:
    """Return a read of the world outside that uses the declared proxy, and for which no other read waits.

    Args:
        run: a script on standard input.
        variables: of the proxy.
    """
    return dataclasses.replace(proxy.through(run, variables), slow=True)
