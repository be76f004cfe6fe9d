"""Names of models that we brought to an instance, known by their marks, and the deletion of a name.

Models and aliases have marks beside each other (`server_state.MARKS`), and go in the same two ways. A name that is no
longer declared goes last: an instance serves its old models until the successors are there. A name of a leaving
instance goes first, while there is a server to delete the name.
"""

import json
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps.base import Answer, Fact, Owned, State, Step
from provision.steps.ollama import scripts, server_state
from provision.steps.ollama.server_state import Servers

# $1 container, $2 name of a mark.
FORGET = Script("ollama/forget-name", scripts.PLACE + rf"""rm -f -- "$(folder "$1")/{server_state.MARKS}/$2" """)


def forget(instance: str, name: str) -> Command:
    """Return the command that removes the mark of an alias; the name stays.

    Args:
        instance: name of the instance.
        name: the name, which has the bytes of a pull by now.
    """
    title = f"note that {instance} has pulled {name} itself"
    return sh(FORGET, instance, server_state.mark(name) + server_state.ALIAS, title=title, timeout=90)


def delete(instance: str, name: str, mark: str, title: str, *, unload: bool = True) -> Command:
    """Return the command that has a server delete a name. The blobs stay where another name has them.

    Args:
        instance: name of the instance.
        name: the name of the model.
        mark: name of the mark, which goes too.
        title: shown to people.
        unload: whether the server unloads the model first. Names with the same bytes share a loaded model, so a second
            name goes without.
    """
    request = {"model": name}
    unloading = json.dumps({**request, "keep_alive": 0, "stream": False}) if unload else ""
    words = (instance, name, json.dumps(request), unloading, mark, server_state.manifest_path(name))
    return sh(scripts.DELETE, *words, title=title, timeout=300)


@dataclass(frozen=True, kw_only=True)
class Marked:
    """The part of a step that knows a name by its mark, even if the server is stopped.

    Args:
        instance: name of the instance.
        name: the name of the model.
        leaves: whether its instance goes too: then the instance must be out of the upstream before the name goes.
    """

    names: ClassVar["attrgetter[Iterable[str]]"]
    """The marked names of a server."""
    found: ClassVar[Mapping[str, Any]]
    """The state of a marked name."""

    instance: str
    name: str
    leaves: bool = False

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Its instance, if the instance goes."""
        return frozenset({self.instance} if self.leaves and want is None else ())

    def fact(self) -> Fact:
        """Looks at every instance's files."""
        return Fact(server_state.command(), lambda answer: self._marked(server_state.read(answer)))

    def _marked(self, servers: Servers) -> State:
        server = servers.by_name.get(self.instance)
        return self.found if server and self.name in self.names(server) else None


@dataclass(frozen=True, kw_only=True)
class OwnedNames(Owned):
    """Finds the names of models that carry our mark.

    In a directory shared by instances, a name no longer declared for one instance may still serve another, and stays.
    """

    last: ClassVar[bool] = True
    """Whether the finder is for undeclared names of staying instances; otherwise for all names of leaving instances."""
    kind: ClassVar[str]
    """The first half of the id."""
    marked: ClassVar[type[Marked]]
    """The kind of step that knows the names."""

    @abstractmethod
    def made(self, instance: str, name: str) -> Step:
        """The step of a name, by its mark."""

    def kept(self, things: Mapping[str, Any], declared: Collection[str]) -> Collection[str]:
        """Keeps the names that the other finder removes, and names declared in another spelling, as a model or as an
        alias."""
        if not self.last:
            return [step_id for step_id in things if _stays(step_id, declared)]
        names = server_state.names_of(declared)
        return [
            step_id for step_id in things if server_state.names_of([step_id]) <= names or not _stays(step_id, declared)
        ]

    def fact(self) -> Fact:
        """Looks at every instance's files."""
        return Fact(server_state.command(), self._parse)

    def step(self, step_id: str) -> Step:
        """A name to delete, with its instance if that goes."""
        instance, _, name = step_id.partition(":")[2].partition("/")
        return self.made(instance, name)

    def _parse(self, answer: Answer) -> State:
        by_name = server_state.read(answer).by_name
        folders = [server.folder for server in by_name.values()]
        return {
            f"{self.kind}:{instance}/{name}": self.marked.found
            for instance, server in by_name.items()
            for name in self.marked.names(server)
            if folders.count(server.folder) == 1
        }


def _stays(step_id: str, declared: Collection[str]) -> bool:
    """Whether the instance of a name is declared."""
    return f"container:{step_id.partition(':')[2].partition('/')[0]}" in declared
