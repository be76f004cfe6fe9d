"""One model on one instance, pulled over its API by a job of the host, and the finder of models that we pulled.

A model that somebody pulled by hand is not ours: it is used where it is declared, and never deleted.
Sources: pulling, docs/facts.md#ollama-pull; names and files, docs/facts.md#ollama-files; sizes of deepseek-r1,
docs/facts.md#model-memory.
"""

import dataclasses
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from provision.command import Command, sh
from provision.steps.base import Answer, BlockedError, Check, Fact, Owned, PutBack, State, Step, UnreadableError
from provision.steps.facts import HostFacts
from provision.steps.instance import storage
from provision.steps.ollama import scripts, server_state
from provision.steps.ollama.server_state import Servers
from provision.steps.wording import Vocabulary, Words

PULL_TIMEOUT = 24 * 3600.0
SIZES = {
    "deepseek-r1:1.5b": 1117322599,
    "deepseek-r1:7b": 4683075271,
    "deepseek-r1:8b": 5225376000,
    "deepseek-r1:14b": 8988112040,
    "deepseek-r1:32b": 19851337640,
    "deepseek-r1:70b": 42520400000,
    "deepseek-r1:671b": 404430188519,
}
"""Bytes of models at their default quantisation, for what a plan says; what is there is measured."""


@dataclass(frozen=True, kw_only=True)
class Model(Step):
    """A model is on an instance, whole.

    Args:
        instance: name of the instance.
        name: of the model.
        storage: where the instance's models are to be: `volume`, or a directory of the host.
        digest: sha256 of the model's manifest, where a certain one is wanted.
        tries: how often a pull is tried.
        stall: seconds without progress after which a try is given up.
        insecure: whether its registry may be asked over plain http.
        after: ids of steps that change it behind our back.
    """

    words: ClassVar[Vocabulary] = {
        "whole": Words("its files are damaged or incomplete"),
        "stale": Words("its server has not read the mended files", unless=("whole",)),
        "digest": Words("other bytes under this name", "digest"),
    }

    instance: str
    name: str
    storage: str = storage.VOLUME
    digest: str = ""
    tries: int = 5
    stall: int = 600
    insecure: bool = False
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`model:INSTANCE/NAME`."""
        return f"model:{self.instance}/{self.name}"

    @property
    def part_of(self) -> str:
        """Its instance."""
        return self.instance

    @property
    def compared_as(self) -> str:
        """The model: all instances of all hosts must have the same bytes under its name, because tags move."""
        return f"model:{self.name}"

    def fact(self) -> Fact:
        """Asks every server of the host at once, and looks at its files."""
        return Fact(server_state.command(), lambda answer: self._state(server_state.read(answer)))

    def want(self, facts: HostFacts, have: State) -> State:
        """Present and whole, of the digest if one is given, and of a server that has not seen its blobs damaged."""
        fresh = {"stale": False} if _restarts(have) else {}
        return {"whole": True, **fresh, **({"digest": self.digest} if self.digest else {})}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Pulls it by a job, or has the server delete it. After a blob was mended the instance restarts."""
        if want is None:
            return [self._delete()]
        differs = have is None or any(have.get(key) != want[key] for key in ("whole", "digest") if key in want)
        pull = [self._pull("mended" if _restarts(have) else "")] if differs else []
        return [*pull, *([self._restart()] if _restarts(have) else [])]

    def _delete(self) -> Command:
        request = {"model": self.name}
        unload = json.dumps({**request, "keep_alive": 0, "stream": False})
        words = (self.instance, self.name, json.dumps(request), unload, server_state.mark(self.name))
        title = f"delete {self.name} from {self.instance}"
        return sh(scripts.DELETE, *words, server_state.manifest_path(self.name), title=title, timeout=300)

    def _pull(self, mended: str) -> Command:
        body = json.dumps({"model": self.name, "stream": True, **({"insecure": True} if self.insecure else {})})
        words = (
            self.instance,
            self.name,
            body,
            server_state.manifest_path(self.name),
            str(self.tries),
            str(self.stall),
        )
        return sh(
            scripts.PULL,
            *(*words, server_state.mark(self.name), mended),
            title=f"pull {self.name} into {self.instance}",
            timeout=PULL_TIMEOUT,
            job=True,
            progress=pull_progress,
        )

    def _restart(self) -> Command:
        return sh(scripts.RESTART, self.instance, title=f"restart {self.instance}", timeout=300)

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Its instance, if that restarts."""
        return frozenset({self.instance} if want is not None and _restarts(have) else ())

    def irrevocable(self, before: State, after: State) -> str:
        """A model that was deleted is gone, one that was mended stays so, and one that was pulled stays too."""
        if before is None:
            return f"a rollback deletes no model; the next deploy deletes {self.name} unless it is declared"
        return f"{self.name} was deleted and must be pulled again" if after is None else "what was pulled stays"

    def follows(self, put_back: PutBack) -> Step | None:
        """Itself where its instance comes back, with which it went: there is nothing to load or to test without it."""
        return self if f"container:{self.instance}" in put_back.recreated else None

    def impact(self, have: State, want: State) -> str:
        """What comes over the network, or what goes."""
        if want is None:
            return f"deletes {self.name} from {self.instance}"
        size = SIZES.get(server_state.canonical(self.name))
        if _restarts(have):
            restarts = f"restarts {self.instance} (its streams finish first)"
            damaged = (have or {}).get("damaged")
            return f"pulls the damaged blobs of {self.name}, then {restarts}" if damaged else restarts
        if have is not None:
            return f"pulls what differs of {self.name}"
        return f"pulls {human(size)}" if size else f"pulls {self.name}, of unknown size"

    def check(self, live: Any) -> Iterator[Check]:
        """The server has it whole, as its neighbours have, and answers with it."""
        found = server_state.read_live(live)
        try:
            state = self._state(found)
        except (BlockedError, UnreadableError) as error:
            yield Check("model present", str(error), True)
            return
        yield Check("model present", state is not None, True)
        if state is None:
            return
        yield Check("blobs whole", state["damaged"] or "whole", "whole")
        yield Check("same digest on this host's instances", sorted(_digests(found, self.name)), [state["digest"]])
        yield Check("digest", state["digest"], self.digest or state["digest"], compared=True)

    def _state(self, found: Servers) -> State:
        server = found.by_name.get(self.instance)
        if server is None and self.storage == storage.VOLUME and self.instance not in found.volumes:
            return None
        server = found.answering(self.instance)
        if not storage.is_at(server.folder, self.storage, self.instance):
            raise BlockedError(f"container:{self.instance}", f"{self.instance} has its models in {server.folder}")
        entry = (server.tags or {}).get(server_state.canonical(self.name))
        if entry is None:
            return None
        damaged = server.damage(self.name)
        return {
            "whole": not damaged,
            "digest": str(entry.get("digest", "")).removeprefix("sha256:"),
            "size": entry.get("size"),
            "damaged": damaged,
            "stale": server_state.mark(self.name) in server.stale,
            "ours": server_state.canonical(self.name) in map(server_state.canonical, server.marked),
        }


def _restarts(have: State) -> bool:
    """Whether the instance restarts: its server keeps what it once took a model with a damaged blob for.

    Ollama 0.33 says for life that such a model cannot generate, however whole it is by then. Where a pull itself finds
    a blob damaged, the mark that it leaves makes the next look at the host find the model stale.
    """
    return have is not None and (not have["whole"] or bool(have.get("stale")))


def _digests(found: Servers, model: str) -> set[str]:
    entries = [(server.tags or {}).get(server_state.canonical(model)) for server in found.by_name.values()]
    return {str(entry.get("digest", "")).removeprefix("sha256:") for entry in entries if entry}


def human(size: int) -> str:
    """Bytes as `ollama list` shows them: powers of 1000, whole from ten on."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size // unit} {name}" if size >= 10 * unit else f"{size / unit:.1f} {name}"
    return f"{size} bytes"


_HASH = re.compile(r"(sha256-[0-9a-f]{12})[0-9a-f]{52}")


def pull_progress(line: str) -> str | None:
    """What to show of one line of a pull: its frames, and our own words.

    Args:
        line: a frame of Ollama's (docs/facts.md#ollama-pull), or what the script says.
    """
    if not line.startswith("{"):
        return _HASH.sub(r"\1", line.strip()) or None
    try:
        frame = json.loads(line)
        total, completed = int(frame.get("total", 0)), int(frame.get("completed", 0))
        status = str(frame.get("error") or frame.get("status", ""))
    except (ValueError, AttributeError, TypeError):
        return None
    return f"{status} {completed * 100 // total}% of {human(total)}" if total else status or None


@dataclass(frozen=True, kw_only=True)
class MarkedModel(Model):
    """A model that we pulled, by its mark: known also where its server does not run.

    Args:
        leaves: whether its instance goes too: then it must get no requests any more when its model does.
    """

    leaves: bool = False

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Its instance, if that goes."""
        return frozenset({self.instance} if self.leaves and want is None else ())

    def fact(self) -> Fact:
        """Looks at every instance's files."""
        return Fact(server_state.command(), lambda answer: self._marked(server_state.read(answer)))

    def _marked(self, found: Servers) -> State:
        server = found.by_name.get(self.instance)
        return {"whole": True, "ours": True} if server and self.name in server.marked else None


@dataclass(frozen=True, kw_only=True)
class OwnedModels(Owned):
    """Finds the models that we pulled, by the marks beside them: also where their server does not run.

    Where instances share a directory, what one of them no longer declares may be what another one serves: those stay.
    They go last: what an instance served is served until its successor is there.
    """

    last: ClassVar[bool] = True

    def kept(self, found: Mapping[str, Any], declared: Collection[str]) -> Collection[str]:
        """Those of instances that go: see `LeavingModels`."""
        return [step_id for step_id in found if not _stays(step_id, declared)]

    def fact(self) -> Fact:
        """Looks at every instance's files."""
        return Fact(server_state.command(), self._parse)

    def step(self, step_id: str) -> Step:
        """A model of that instance, to be deleted."""
        instance, _, name = step_id.partition(":")[2].partition("/")
        return MarkedModel(instance=instance, name=name)

    @staticmethod
    def _parse(answer: Answer) -> State:
        found = server_state.read(answer).by_name
        folders = [server.folder for server in found.values()]
        return {
            f"model:{instance}/{name}": {"whole": True, "ours": True}
            for instance, server in found.items()
            for name in server.marked
            if folders.count(server.folder) == 1
        }


@dataclass(frozen=True, kw_only=True)
class LeavingModels(OwnedModels):
    """Finds those of instances that are no longer declared. They go first, while there is a server to delete them."""

    last: ClassVar[bool] = False

    def kept(self, found: Mapping[str, Any], declared: Collection[str]) -> Collection[str]:
        """Those of instances that stay: see `OwnedModels`."""
        return [step_id for step_id in found if _stays(step_id, declared)]

    def step(self, step_id: str) -> Step:
        """A model of that instance, to be deleted with it."""
        return dataclasses.replace(cast(MarkedModel, super().step(step_id)), leaves=True)


def _stays(step_id: str, declared: Collection[str]) -> bool:
    """Whether the instance of a model is declared."""
    instance, _, _ = step_id.partition(":")[2].partition("/")
    return f"container:{instance}" in declared
