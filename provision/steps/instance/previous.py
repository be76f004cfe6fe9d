"""The previous container of an instance, and the finder of previous containers.

A replacement stops the old container and keeps it under another name, without a restart policy, until the new container
has passed its test. A stopped container holds neither a card nor a port, so a failed replacement has a way back without
a registry and without a new container. Docker cannot change the labels of a container: the name tells.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import Command, sh
from provision.steps.base import Check, Fact, Owned, State, Step
from provision.steps.docker import inspect
from provision.steps.docker.inspect import MANAGED, Docker
from provision.steps.docker.probe import Labels
from provision.steps.facts import HostFacts
from provision.steps.instance import scripts
from provision.steps.instance.engine import Engine
from provision.steps.instance.scripts import PREVIOUS


def previous_name(instance: str) -> str:
    """Return the name of the previous container of an instance."""
    return f"{instance}{PREVIOUS}"


@dataclass(frozen=True, kw_only=True)
class Previous(Step):
    """The previous container of an instance, which goes once the instance has passed its test.

    Args:
        name: name of the instance.
    """

    follows_test: ClassVar[bool] = True
    is_health: ClassVar[bool] = True
    gone: ClassVar[str] = "stopped by a replacement, and kept until the instance has passed its test"

    name: str

    @property
    def id(self) -> str:
        """`previous:NAME`."""
        return f"previous:{self.name}"

    @property
    def part_of(self) -> str:
        """The instance."""
        return self.name

    def fact(self) -> Fact:
        """Reads the state of Docker."""
        return inspect.fact(lambda docker: _previous(docker).get(self.id))

    def want(self, facts: HostFacts, have: State) -> State:
        """Absent."""
        return None

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Removes the previous container."""
        title = f"remove the previous container of {self.name}"
        return [sh(scripts.REMOVE_PREVIOUS, self.name, title=title)] if have else []

    def way_back(self, have: State) -> str:
        """The previous container."""
        return previous_name(self.name) if have else ""

    def impact(self, have: State, want: State) -> str:
        """The test before, and the way back that goes."""
        return f"tests {self.name}, then removes its previous container"

    def check(self, live: Any) -> Iterator[Check]:
        """No previous container is left."""
        there = self.id in _previous(inspect.read_live(live))
        yield Check("previous container", "present" if there else "absent", "absent")


@dataclass(frozen=True, kw_only=True)
class OwnedPrevious(Owned):
    """Finds the previous containers of one engine, also of instances that are no longer declared.

    A previous container stays as long as its declared instance has no other container: the step of the instance starts
    the previous container again, or makes a new container.

    Args:
        engine: the engine.
    """

    last: ClassVar[bool] = True  # a previous container is the way back until all changes are made

    engine: Engine = field(repr=False)

    def fact(self) -> Fact:
        """Reads the state of Docker."""
        return inspect.fact(lambda docker: _previous(docker, self.engine.probe.is_of))

    def kept(self, things: Mapping[str, Any], declared: Collection[str]) -> Collection[str]:
        """The previous containers of declared instances without another container."""
        alone = (step_id for step_id, state in things.items() if not state["replaced"])
        return [step_id for step_id in alone if f"container:{step_id.partition(':')[2]}" in declared]

    def step(self, step_id: str) -> Step:
        """A previous container to remove."""
        return Previous(name=step_id.partition(":")[2])


def _previous(docker: Docker, chosen: Callable[[Labels], bool] = lambda labels: True) -> dict[str, dict[str, Any]]:
    """Return the previous containers of all instances, by the id of their step.

    Args:
        docker: the state of Docker.
        chosen: whether to include a container, by its labels.
    """
    items = ((name, item) for name, item in docker.containers.items() if name.endswith(PREVIOUS))
    return {
        f"previous:{name.removesuffix(PREVIOUS)}": {
            "image": item["image"],
            "status": item["status"],
            "replaced": name.removesuffix(PREVIOUS) in docker.containers,
        }
        for name, item in items
        if (item["labels"] or {}).get(MANAGED) == "1" and chosen(item["labels"])
    }
