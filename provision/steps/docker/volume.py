"""A Docker volume, and the finder of volumes with our mark."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from provision.command import Command, run
from provision.steps.base import Check, Fact, Owned, RefusalError, State, Step
from provision.steps.docker import inspect
from provision.steps.docker.inspect import MANAGED, Docker
from provision.steps.facts import HostFacts
from provision.steps.wording import Vocabulary, Words


@dataclass(frozen=True, kw_only=True)
class Volume(Step):
    """A volume for the models of one instance.

    Args:
        name: name of the volume.
        after: ids of steps that change the volume behind our back.
    """

    stands_apart = True
    words: ClassVar[Vocabulary] = {
        "ours": Words("not made by provision"),
    }

    name: str
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`volume:NAME`."""
        return f"volume:{self.name}"

    def fact(self) -> Fact:
        """Reads Docker's volumes."""
        return inspect.fact(self._pick)

    def want(self, facts: HostFacts, have: State) -> State:
        """Present and ours. Refuses a foreign volume: its content is not ours to serve or to delete."""
        if have is not None and not have["ours"]:
            raise RefusalError(
                f"a volume named {self.name} is there that is not ours; rename it, give the instance another name,"
                " or set its storage to a directory"
            )
        return {"ours": True}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Creates or removes the volume."""
        if want is None:
            return [run("docker", "volume", "rm", "--", self.name)]
        return [run("docker", "volume", "create", "--label", f"{MANAGED}=1", "--", self.name)]

    def impact(self, have: State, want: State) -> str:
        """The loss of the models."""
        return "" if want else f"deletes the models of {self.name}"

    def check(self, live: Any) -> Iterator[Check]:
        """The volume exists, with our mark."""
        labels = inspect.read_live(live).volumes.get(self.name)
        yield Check("our mark", "no such volume" if labels is None else labels.get(MANAGED), "1")

    def _pick(self, docker: Docker) -> State:
        if self.name not in docker.volumes:
            return None
        return {"ours": docker.volumes[self.name].get(MANAGED) == "1"}


@dataclass(frozen=True, kw_only=True)
class OwnedVolumes(Owned):
    """Finds the volumes with our mark."""

    last: ClassVar[bool] = True  # a container has its volume until it is made anew without it

    def fact(self) -> Fact:
        """Reads Docker's volumes."""
        return inspect.fact(self._pick)

    def step(self, step_id: str) -> Step:
        """The volume of that name, to be removed."""
        return Volume(name=step_id.partition(":")[2])

    @staticmethod
    def _pick(docker: Docker) -> State:
        return {
            f"volume:{name}": {"ours": True} for name, labels in docker.volumes.items() if labels.get(MANAGED) == "1"
        }
