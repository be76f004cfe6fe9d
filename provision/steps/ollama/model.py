"""One model on one instance, pulled over the API by a job of the host, and the finder of models that we pulled.

A model pulled by hand is not ours: it is used if declared, and never deleted.
Sources: pulling, docs/facts.md#ollama-pull; names and files, docs/facts.md#ollama-files; sizes of deepseek-r1,
docs/facts.md#model-memory.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, ClassVar

from provision.capacity.estimate import Request
from provision.command import Command, sh
from provision.steps.base import (
    BlockedError,
    Check,
    Content,
    Fact,
    PutBack,
    State,
    Step,
    UnreadableError,
)
from provision.steps.facts import HostFacts
from provision.steps.instance import storage
from provision.steps.loading import Loading
from provision.steps.ollama import marked, model_header, model_room, scripts, server_state
from provision.steps.ollama.marked import Marked, OwnedNames
from provision.steps.ollama.server_state import Servers
from provision.steps.room import Filling
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
"""Bytes of models at their default quantisation, for the words of a plan; models on a host are measured."""


@dataclass(frozen=True, kw_only=True)
class Model(Step):
    """A model is on an instance, whole.

    Args:
        instance: name of the instance.
        name: name of the model.
        storage: storage of the instance's models: `volume`, or a directory of the host.
        digest: sha256 of the model's manifest, if declared.
        tries: how often a pull is tried.
        stall: seconds without progress after which a try is given up.
        insecure: whether the registry may be asked over plain http.
        data_root: Docker's declared folder, which has the volumes; empty for Docker's own.
        gpus: the cards of the instance, as the inventory names them; empty where nobody loads the model.
        context: tokens of context of each request.
        parallel: requests answered at once.
        cache_type: type of the numbers of the context.
        at_once: how many models the instance keeps loaded at once.
        proposes: whether the instance takes a proposal for its context or its requests at once.
        beside: the instances of the host with the model, each with its storage; empty for this instance alone.
        after: ids of steps that change the model as a side effect.
    """

    words: ClassVar[Vocabulary] = {
        "whole": Words("its files are damaged or incomplete"),
        "stale": Words("its server has not read the mended files", unless=("whole",)),
        "borrowed": Words("the name means another model, as a public name did"),
        "digest": Words("other bytes under this name", "digest"),
    }

    instance: str
    name: str
    storage: str = storage.VOLUME
    digest: str = ""
    tries: int = 5
    stall: int = 600
    insecure: bool = False
    data_root: str = ""
    gpus: tuple[int | str, ...] = ()
    context: int = 0
    parallel: int = 1
    cache_type: str = "f16"
    at_once: int = 1
    proposes: bool = False
    beside: tuple[tuple[str, str], ...] = ()
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
        """Present and whole, with the declared digest if any, on a server that has not seen damaged blobs of the
        model. A name that was a public name is pulled."""
        fresh = {"stale": False} if _restarts(have) else {}
        fresh |= {"borrowed": False} if have and have.get("borrowed") else {}
        return {"whole": True, **fresh, **({"digest": self.digest} if self.digest else {})}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Pulls the model by a job, or has the server delete it. After a blob was mended the instance restarts."""
        if want is None:
            return [self._delete()]
        keys = [key for key in ("whole", "digest", "borrowed") if key in want]
        differs = have is None or any(have.get(key) != want[key] for key in keys)
        pull = [self._pull("mended" if _restarts(have) else "")] if differs else []
        own = [marked.forget(self.instance, self.name)] if want.get("borrowed") is False else []
        return [*pull, *own, *([self._restart()] if _restarts(have) else [])]

    def _delete(self) -> Command:
        title = f"delete {self.name} from {self.instance}"
        return marked.delete(self.instance, self.name, server_state.mark(self.name), title)

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
        """Its instance, if the instance restarts."""
        return frozenset({self.instance} if want is not None and _restarts(have) else ())

    def filling(self, have: State) -> Filling | None:
        """The blobs that are not there yet. A restart alone pulls nothing."""
        known = have or {}
        if known.get("whole") and not known.get("borrowed") and self.digest in ("", known.get("digest")):
            return None
        usual = SIZES.get(server_state.canonical(self.name)) if have is None else None
        at, root, kept = self.storage, self.data_root, have is None and not self.digest
        below = model_header.smaller(self.name)
        smaller = tuple((each.name, SIZES[each.name]) for each in below if each.name in SIZES)
        place = (self.name, self.instance, at, root)
        return model_room.filling(*place, insecure=self.insecure, usual=usual, kept=kept, smaller=smaller)

    @property
    def loading(self) -> Loading | None:
        """The model on the cards of its instance."""
        if not (self.gpus and self.context):
            return None
        return Loading(
            self.name,
            self.instance,
            self.gpus,
            Request(self.context, self.parallel, self.cache_type),
            self.at_once,
            model_header.read(self.name, self._places, self.data_root, insecure=self.insecure),
            partial(model_header.dimensions, self.name),
            model_header.smaller(self.name),
            self.proposes,
        )

    @property
    def _places(self) -> tuple[tuple[str, str], ...]:
        return self.beside or ((self.instance, self.storage),)

    def irrevocable(self, before: State, after: State) -> str:
        """A deleted model is gone; a mended or pulled model stays."""
        if before is None:
            return f"a rollback deletes no model; the next deploy deletes {self.name} unless it is declared"
        return f"{self.name} was deleted and must be pulled again" if after is None else "what was pulled stays"

    def follows(self, put_back: PutBack) -> Step | None:
        """Itself, if its instance comes back: without the model there is nothing to load or to test."""
        return self if f"container:{self.instance}" in put_back.recreated else None

    def impact(self, have: State, want: State) -> str:
        """The bytes over the network, or the deletion."""
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
        """The server has the model whole, with the same bytes as its neighbours, and answers with the model."""
        yield from self.proofs(server_state.read_live(live))

    def proofs(self, servers: Servers) -> Iterator[Check]:
        """Return the proofs by the state of the host's servers."""
        try:
            state = self._state(servers)
        except (BlockedError, UnreadableError) as error:
            yield Check("model present", str(error), True)
            return
        yield Check("model present", state is not None, True)
        if state is None:
            return
        yield Check("blobs whole", state["damaged"] or "whole", "whole")
        yield Check("same digest on this host's instances", sorted(_digests(servers, self.name)), [state["digest"]])
        yield Check("digest", state["digest"], self.digest or state["digest"], compared=True)

    def contents(self, live: Any) -> Iterator[Content]:
        """Its blobs: the name of a blob is the sha256 of its bytes."""
        servers = server_state.read_live(live)
        if self._state(servers) is not None:
            yield from servers.answering(self.instance).contents(self.name)

    def why(self, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
        """Names the damaged blob."""
        blob = _HASH.sub(r"\1", str(have.get("damaged") or ""))
        return super().why(have, want) + (f": {blob}" if blob and not have.get("whole") else "")

    def _state(self, servers: Servers) -> State:
        server = servers.by_name.get(self.instance)
        if server is None and self.storage == storage.VOLUME and self.instance not in servers.volumes:
            return None
        server = servers.answering(self.instance)
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
            "borrowed": server_state.canonical(self.name) in server.public,
            "ours": server_state.canonical(self.name) in map(server_state.canonical, server.marked),
        }


def _restarts(have: State) -> bool:
    """Whether the instance restarts: its server remembers that a model with a damaged blob cannot generate.

    Ollama 0.33 never tries such a model again, however whole the model is by then. If a pull itself finds a damaged
    blob, the pull leaves a mark, and the next read of the host finds the model stale.
    """
    return have is not None and (not have["whole"] or bool(have.get("stale")))


def _digests(servers: Servers, model: str) -> set[str]:
    """Return the digests of a model on a host. Where the name is a public name, another version has the name."""
    name = server_state.canonical(model)
    entries = [(server.tags or {}).get(name) for server in servers.by_name.values() if name not in server.public]
    return {str(entry.get("digest", "")).removeprefix("sha256:") for entry in entries if entry}


def human(size: int) -> str:
    """Return bytes as `ollama list` shows them: powers of 1000, whole from ten on."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size // unit} {name}" if size >= 10 * unit else f"{size / unit:.1f} {name}"
    return f"{size} bytes"


_HASH = re.compile(r"(sha256-[0-9a-f]{12})[0-9a-f]{52}")


def pull_progress(line: str) -> str | None:
    """Return the text to show for one line of a pull: a frame, or our own words.

    Args:
        line: a frame of Ollama's (docs/facts.md#ollama-pull), or output of the script.
    """
    if not line.startswith("{"):
        return _HASH.sub(r"\1", line.strip()) or None
    try:
        frame = json.loads(line)
        total, completed = int(frame.get("total", 0)), int(frame.get("completed", 0))
        status = str(frame.get("error") or frame.get("status", ""))
    except (ValueError, AttributeError, TypeError, OverflowError, RecursionError):
        return None
    return f"{status} {completed * 100 // total}% of {human(total)}" if total else status or None


@dataclass(frozen=True, kw_only=True)
class MarkedModel(Marked, Model):
    """A model that we pulled, by its mark."""

    names: ClassVar["attrgetter[Iterable[str]]"] = attrgetter("marked")
    found: ClassVar[Mapping[str, Any]] = {"whole": True, "ours": True}


@dataclass(frozen=True, kw_only=True)
class OwnedModels(OwnedNames):
    """Finds the models that we pulled."""

    kind: ClassVar[str] = "model"
    marked: ClassVar[type[Marked]] = MarkedModel

    def made(self, instance: str, name: str) -> Step:
        """A model to delete."""
        return MarkedModel(instance=instance, name=name, leaves=not self.last)


@dataclass(frozen=True, kw_only=True)
class LeavingModels(OwnedModels):
    """Finds the models of instances that are no longer declared."""

    last: ClassVar[bool] = False
