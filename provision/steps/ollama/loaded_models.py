"""The models of one instance, loaded and wholly on its cards.

Sources: an empty request loads, and only while its client waits, docs/facts.md#ollama-load; a model that does not fit
goes to the CPU without an error, and `size_vram == size` may be said of a model on the CPU, docs/facts.md#model-memory:
so nvidia-smi's list of processes is asked too; a container can lose its cards, docs/facts.md#lost-cards.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from provision.command import Command, sh
from provision.steps import speed
from provision.steps.base import NOT_ASKED, Check, Fact, PutBack, State, Step
from provision.steps.facts import HostFacts, live_facts
from provision.steps.ollama import loaded_proof, loaded_settings, scripts, server_state
from provision.steps.ollama.server_state import Server, Servers
from provision.steps.wording import Vocabulary, Words

LOAD_TIMEOUT = 2 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Resident(Step):
    """Models are loaded, and wholly on the cards.

    Args:
        instance: name of the instance.
        models: the models of the instance. If the container can load only some of them at once, any do, because
            requests decide which; if the container unloads models after a while, none is wanted.
        pulled_only: whether only models on the instance count: a rollback pulls none.
        after: ids of steps that change the loaded models as a side effect.
    """

    volatile: ClassVar[frozenset[str]] = frozenset({"loaded", "unkept", "contexts"})
    is_health: ClassVar[bool] = True
    words: ClassVar[Vocabulary] = {
        "enough": Words("declared models are not loaded"),
        "on_cpu": Words("partly on the CPU: {have}"),
        "off_cards": Words("on no card: {have}"),
    }

    instance: str
    models: tuple[str, ...]
    pulled_only: bool = False
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`resident:INSTANCE`."""
        return f"resident:{self.instance}"

    @property
    def part_of(self) -> str:
        """Its instance."""
        return self.instance

    def fact(self) -> Fact:
        """Asks every server of the host at once."""
        return Fact(server_state.command(), lambda answer: self._state(server_state.read(answer)))

    def want(self, facts: HostFacts, have: State) -> State:
        """As many models as can be loaded. Requests decide which, also between two reads, so no names are wanted."""
        return {"enough": True, "on_cpu": [], "off_cards": []}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Loads missing models by a job; a model off the cards is unloaded first. A server with a model on no card is
        restarted: a server looks for cards only when it starts."""
        before, after = self._loaded(have), self._loaded(want, have)
        slow = _slow(have) - _slow(want)
        commands: list[Command] = []
        if slow:
            requests = [_request(model, 0) for model in sorted(slow)]
            title = f"unload {', '.join(sorted(slow))} from {self.instance} and look for its cards"
            restart = "restart" if (have or {}).get("off_cards") else "ask"
            commands.append(sh(scripts.REFRESH, self.instance, restart, *requests, title=title, timeout=300))
        if (after - before or slow) and (have or {}).get("keeps", True):
            commands.append(self._load(sorted(after if slow else after - before)))
        if before - after:
            requests = [_request(model, 0) for model in sorted(before - after)]
            title = f"unload {', '.join(sorted(before - after))} from {self.instance}"
            commands.append(sh(scripts.UNLOAD, self.instance, *requests, title=title))
        return commands

    def repaired(self, have: State) -> State:
        """Loaded, and wholly on the cards."""
        return {"enough": True, "on_cpu": [], "off_cards": []}

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Its instance, if a model off the cards is loaded anew."""
        return frozenset({self.instance} if _slow(have) and want is not None else ())

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """Loaded: requests decided which models were loaded in the past."""
        return self.want(facts, have)

    def note(self, facts: HostFacts, have: State = None) -> str:
        """The models with another time or context than the inventory says, and the models with a single request at a
        time. No change: the next request may set time and context again, so a deploy would differ from its plan at any
        moment."""
        state = have or {}
        unkept = state.get("unkept", {})
        stays = "; ".join(f"{model} stays loaded on {self.instance} {how}" for model, how in unkept.items())
        sentences = [f"{stays}, by the keep_alive of a request (docs/balancer.md)" if stays else ""]
        for model, (got, wanted) in state.get("contexts", {}).items():
            sentences.append(loaded_settings.context_words(self.instance, model, got, wanted))
        found, parallel = state.get("single", {}), state.get("parallel", 0)
        sentences.append(loaded_settings.parallel_words(self.instance, parallel, found, len(self.models)))
        return "; ".join(filter(None, sentences))

    @property
    def compared_as(self) -> str:
        """The speed of all instances."""
        return speed.NAME

    def irrevocable(self, before: State, after: State) -> str:
        """A removed container had no models loaded, and goes as a whole."""
        return "" if before else "it goes with its container"

    def follows(self, put_back: PutBack) -> Step | None:
        """The models on the instance, if the rollback restored this step or its container."""
        touched = {self.id, f"container:{self.instance}"} & put_back.restored
        return replace(self, pulled_only=True) if touched and self.models else None

    def impact(self, have: State, want: State) -> str:
        """The models that wait for the cards."""
        missing = sorted(self._loaded(want, have) - self._loaded(have))
        if slow := sorted(_slow(have)):
            return f"loads {', '.join(slow)} on {self.instance} again (its streams finish first)"
        return f"loads {', '.join(missing)} on {self.instance}" if missing else ""

    def check(self, live: Any) -> Iterator[Check]:
        """The models are loaded and stay so, one of them answers, and no byte of them is off the cards."""
        server = server_state.read_live(live).by_name.get(self.instance)
        names = self._names(server)
        if server is None or server.keeps:
            limit = self._limit(server.limit, self._absent(server)) if server else self._limit(0)
            yield Check("models loaded", len(names), limit)
        elif not names:
            yield Check(
                f"{NOT_ASKED}{self.instance} has no model loaded now, and a question would load one", True, True
            )
        if server and names:
            yield from loaded_proof.checks(live, self.instance, server, names, _cards(live, server))
        for name in names:
            entry = ((server.loaded if server else None) or {})[server_state.canonical(name)]
            yield Check(f"{name}: bytes on the cards", entry.get("size_vram"), entry.get("size"))
        if server and server.claim:
            yield loaded_proof.held(server)
        if server:
            yield from loaded_settings.checks(server, self.instance, self.models, names)

    def _names(self, server: Server | None) -> list[str]:
        """Return the declared models that are loaded."""
        loaded = (server.loaded if server else None) or {}
        return [name for name in self.models if server_state.canonical(name) in loaded]

    def _absent(self, server: Server) -> list[str]:
        """Return the declared models that do not count, because they are not on the instance."""
        tags = server.tags or {}
        return [name for name in self.models if server_state.canonical(name) not in tags] if self.pulled_only else []

    def _limit(self, limit: int, absent: Sequence[str] = ()) -> int:
        """Return how many of the models are loaded at once, by the container's own limit."""
        count = len(self.models) - len(absent)
        return min(limit or count, count)

    def _loaded(self, state: State, actual: State = None) -> set[str]:
        """Return the loaded models of a state. A wanted state has no names: return the actual models and the missing
        ones."""
        if state is None or "loaded" in state:
            return set((state or {}).get("loaded", ()))
        known = actual or {}
        loaded = list(known.get("loaded", ()))
        absent = known.get("absent", ())
        there = [name for name in self.models if name not in (*loaded, *absent)] if known.get("keeps", True) else []
        return {*loaded, *there[: max(0, self._limit(known.get("limit", 0), absent) - len(loaded))]}

    def _load(self, models: Sequence[str]) -> Command:
        words = [word for model in models for word in (model, _request(model, -1), _embedding(model, keep_alive=-1))]
        title = f"load {', '.join(models)} on {self.instance}"
        limit = str(round(LOAD_TIMEOUT / max(1, len(models))))
        return sh(
            scripts.LOAD,
            *(self.instance, limit, *words),
            title=title,
            timeout=LOAD_TIMEOUT,
            job=True,
            progress=lambda line: line.strip() or None,
        )

    def _state(self, servers: Servers) -> State:
        server = servers.answering(self.instance)
        names = self._names(server)
        entries = server.loaded or {}
        absent = self._absent(server)
        contexts = loaded_settings.contexts(server, names)
        return {
            "enough": not server.keeps or len(names) >= self._limit(server.limit, absent),
            "absent": absent,
            "loaded": sorted(names),
            "keeps": server.keeps,
            "limit": server.limit,
            "unkept": loaded_proof.unkept(server, names),
            "contexts": {model: pair for model, pair in contexts.items() if pair[0] != pair[1]},
            "single": loaded_settings.single(server, self.models),
            "parallel": server.parallel,
            "on_cpu": sorted(
                _with(names, entries, lambda entry: bool(entry.get("size_vram")) and not _on_cards(entry))
            ),
            "off_cards": sorted(
                _with(names, entries, lambda entry: not entry.get("size_vram") or server.holding.proved is False)
            ),
        }


def _with(
    names: Sequence[str], entries: Mapping[str, Mapping[str, Any]], fits: Callable[[Mapping[str, Any]], bool]
) -> Iterator[str]:
    """Yield the names of loaded models whose entry of `/api/ps` fits."""
    return (name for name in names if fits(entries[server_state.canonical(name)]))


def _on_cards(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("size")) and entry.get("size_vram") == entry.get("size")


def _slow(state: State) -> set[str]:
    """Return the models of a state with a part off the cards."""
    return {*(state or {}).get("on_cpu", ()), *(state or {}).get("off_cards", ())}


def _cards(live: Any, server: Server) -> str:
    """Return the cards of an instance in words; empty for a card that the host does not list."""
    names = {card.uuid: card.name for card in live_facts(live).cards}
    return speed.cards_in_words(names.get(card, "") for card in server.cards)


def _request(model: str, keep_alive: int) -> str:
    return json.dumps({"model": model, "keep_alive": keep_alive, "stream": False})


def _embedding(model: str, **options: int) -> str:
    return json.dumps({"model": model, **options, "input": "."})
