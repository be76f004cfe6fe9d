"""A second name for a model on one instance: a model pulled under a mirror's name is served under its own, and the
versions of a public name are served under the public name (`ollama.traffic`).

Ollama copies the manifest, and the blobs stay shared: a removed alias takes no blob along that another name has
(docs/facts.md#ollama-api). A mark beside the marks of models tells that an alias is ours.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from provision.command import Command, Script, sh
from provision.steps.base import (
    BlockedError,
    Check,
    Fact,
    PutBack,
    RefusalError,
    State,
    Step,
    UnreadableError,
)
from provision.steps.facts import HostFacts
from provision.steps.instance import storage
from provision.steps.ollama import marked, scripts, server_state
from provision.steps.ollama.marked import Marked, OwnedNames
from provision.steps.ollama.server_state import ALIAS, MARKS, Server, Servers
from provision.steps.wording import Vocabulary, Words

KIND = "alias"

# $1 container, $2 alias, $3 the model's name, $4 request, $5 name of the mark, $6 `public` or nothing.
COPY = Script(
    "ollama/copy",
    scripts.PLACE
    + scripts.REASON
    + rf"""
answer=$(mktemp); trap 'rm -f "$answer"' EXIT
at=$(at "$1"); folder=$(folder "$1")
code=$(printf '%s' "$4" | curl --noproxy '*' -sS -m 60 -o "$answer" -w '%{{http_code}}' --data-binary @- \
  "http://$at/api/copy") || code=000
if [ "$code" != 200 ]; then
  echo "$1 could not give $3 the name $2 (it answered $code): $(reason "$answer")" >&2
  exit 1
fi
umask 077
mkdir -p "$folder/{MARKS}"
printf '%s %s%s\n' "$2" "$3" "${{6:+ $6}}" >"$folder/{MARKS}/$5"
""",
)


@dataclass(frozen=True, kw_only=True)
class Alias(Step):
    """An instance serves a model under a second name, with the same bytes.

    Args:
        instance: name of the instance.
        name: the name for clients.
        source: the model: its name on the mirror, or the version of a public name.
        storage: storage of the instance's models: `volume`, or a directory of the host.
        digest: sha256 of the model's manifest, if declared.
        compared: of a public name, the model whose copies on all instances must have these bytes; else empty.
        after: ids of steps that change the model.
    """

    words: ClassVar[Vocabulary] = {
        "same": Words("other bytes than the model of this name"),
        "digest": Words("other bytes under this name", "digest", unless=("same",)),
    }

    instance: str
    name: str
    source: str
    storage: str = storage.VOLUME
    digest: str = ""
    compared: str = ""
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`alias:INSTANCE/NAME`."""
        return f"{KIND}:{self.instance}/{self.name}"

    @property
    def part_of(self) -> str:
        """Its instance."""
        return self.instance

    @property
    def compared_as(self) -> str:
        """The model: instances with and without a mirror must have the same bytes under its name. Under a public name
        each version has bytes of its own."""
        return f"model:{self.compared or self.name}"

    def fact(self) -> Fact:
        """Asks every server of the host at once."""
        return Fact(server_state.command(), lambda answer: self._state(server_state.read(answer)))

    def want(self, facts: HostFacts, have: State) -> State:
        """The bytes of the model, with the declared digest if any. Refuses to replace a foreign model without another
        name by a public name: a model made by hand comes from no registry."""
        if have is not None and have.get("foreign"):
            name, ask = self.name, f"docker exec {self.instance} ollama"
            raise RefusalError(
                f"{self.instance} has a model {name} that provision did not pull, and ollama.traffic wants the name"
                f" for {self.source}: keep the model under another name (`{ask} cp {name} OTHER`), or remove the model"
                f" (`{ask} rm {name}`)"
            )
        return {"same": True, **({"digest": self.digest} if self.digest else {})}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Copies the name, or has the server delete the name. The blobs stay where another name has them."""
        mark = server_state.mark(self.name) + ALIAS
        if want is None:
            title = f"delete the name {self.name} from {self.instance}"
            return [marked.delete(self.instance, self.name, mark, title, unload=False)]
        body = json.dumps({"source": self.source, "destination": self.name})
        title = f"serve {self.source} as {self.name} from {self.instance}"
        public = [server_state.PUBLIC] if self.compared else []
        return [sh(COPY, self.instance, self.name, self.source, body, mark, *public, title=title, timeout=90)]

    def irrevocable(self, before: State, after: State) -> str:
        """As with a model: a rollback deletes no name that clients may use by now."""
        if before is None:
            return f"a rollback deletes no name of a model; the next deploy deletes {self.name} unless it is declared"
        return f"the name {self.name} was deleted; the model stays, if declared" if after is None else "the name stays"

    def follows(self, put_back: PutBack) -> Step | None:
        """Itself, if its instance comes back: without the name there is nothing to load or to test."""
        return self if f"container:{self.instance}" in put_back.recreated else None

    def impact(self, have: State, want: State) -> str:
        """The name that clients use; no download."""
        if want is None:
            return f"deletes the name {self.name} from {self.instance}; bytes that another name has stay"
        return f"serves {self.source} as {self.name}"

    def check(self, live: Any) -> Iterator[Check]:
        """The server has the name, with the bytes of the model."""
        yield from self.proofs(server_state.read_live(live))

    def proofs(self, servers: Servers) -> Iterator[Check]:
        """Return the proofs by the state of the host's servers."""
        try:
            state = self._state(servers)
        except (BlockedError, UnreadableError) as error:
            yield Check("name present", str(error), True)
            return
        yield Check("name present", state is not None, True)
        if state is not None:
            yield Check(f"same bytes as {self.source}", state["digest"], state["source"] or "no such model")
            yield Check("digest", state["digest"], self.digest or state["digest"], compared=True)

    def _state(self, servers: Servers) -> State:
        server = servers.by_name.get(self.instance)
        if server is None and self.storage == storage.VOLUME and self.instance not in servers.volumes:
            return None
        server = servers.answering(self.instance)
        tags = server.tags or {}
        entry, source = (tags.get(server_state.canonical(name)) for name in (self.name, self.source))
        if entry is None:
            return None
        digest, of_source = (str((each or {}).get("digest", "")).removeprefix("sha256:") for each in (entry, source))
        foreign = {"foreign": True} if digest != of_source and self._is_foreign(server) else {}
        return {"same": bool(digest) and digest == of_source, "digest": digest, "source": of_source, **foreign}

    def _is_foreign(self, server: Server) -> bool:
        """Whether provision did not pull the bytes under a public name, and no other name has the bytes."""
        name, tags = server_state.canonical(self.name), server.tags or {}
        ours = name in map(server_state.canonical, (*server.marked, *server.aliases))
        digests = [entry.get("digest") for entry in tags.values()]
        return bool(self.compared) and not ours and digests.count(tags[name].get("digest")) < 2


@dataclass(frozen=True, kw_only=True)
class MarkedAlias(Marked, Alias):
    """An alias of ours, by its mark."""

    names: ClassVar["attrgetter[Iterable[str]]"] = attrgetter("aliases")
    found: ClassVar[Mapping[str, Any]] = {"ours": True}

    source: str = ""


@dataclass(frozen=True, kw_only=True)
class OwnedAliases(OwnedNames):
    """Finds the aliases that we made. A name that is declared as a model by now keeps its bytes."""

    kind: ClassVar[str] = KIND
    marked: ClassVar[type[Marked]] = MarkedAlias

    def made(self, instance: str, name: str) -> Step:
        """An alias to delete."""
        return MarkedAlias(instance=instance, name=name, leaves=not self.last)


@dataclass(frozen=True, kw_only=True)
class LeavingAliases(OwnedAliases):
    """Finds the aliases of instances that are no longer declared."""

    last: ClassVar[bool] = False
