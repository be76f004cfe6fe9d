"""The ground of the bench: simulated instances, and the ways to them, all on loopback and taken down at the end."""

import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from os import kill
from pathlib import Path

from tests.bench.gateway import nginx, peer
from tests.bench.gateway.client import Ask, Place
from tests.bench.gateway.places import ALL_INSTANCES, DIRECT, LITELLM, LOAD, MODELS, OURS, PLAIN, UNCOUNTED, Front
from tests.bench.gateway.processes import demand_free, started, wait_for
from tests.gateway import packaged_nginx

_ROOT = Path(__file__).parents[3]
_BALANCERS = {PLAIN: {}, OURS: nginx.ROUTED, UNCOUNTED: {**nginx.ROUTED, "count_tokens": False}}
SINGLE = {
    PLAIN: {"worker_processes": 1},
    OURS: {**nginx.ROUTED, "worker_processes": 1, "cap": "64m"},
}
"""Balancers of a single worker process, which stall as a whole."""


class Rig:
    """The running programs.

    Args:
        folder: an empty folder.
        programs: folder of LiteLLM's programs; None without LiteLLM.
        say: called with a line before each long step.
    """

    def __init__(self, folder: Path, programs: Path | None, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._running: dict[Place, ExitStack] = {}
        self._nginx = packaged_nginx.unpacked()
        self.say = say
        self._fronts = {DIRECT: Front(DIRECT, None, 0, dict.fromkeys(peer.KEYS, "none"))}
        self._peer: peer.Peer | None = None
        self._programs = programs

    def start(self) -> None:
        """Start everything."""
        for place in ALL_INSTANCES:
            self.revive(place)
        for name, settings in _BALANCERS.items():
            self._fronts[name] = self._stack.enter_context(self.balancer(name, settings))
        if self._programs:
            self.say("LiteLLM starts")
            self._peer = self._stack.enter_context(peer.proxying(self._programs, self._folder / "litellm"))

    def close(self) -> None:
        """End everything."""
        with ExitStack() as stack:
            for running in self._running.values():
                stack.push(running)
            stack.push(self._stack)

    @property
    def fronts(self) -> dict[str, Front]:
        """Name -> the ways to the instances, in the order of the tables."""
        last = {LITELLM: self._peer.front} if self._peer else {}
        return {**self._fronts, **last}

    def some(self, *names: str) -> list[Front]:
        """Return the ways with some names, without a missing LiteLLM."""
        return [front for name, front in self.fronts.items() if name in names]

    @contextmanager
    def balancer(self, name: str, settings: dict[str, object]) -> Iterator[Front]:
        """Run a balancer.

        Args:
            name: name of the way.
            settings: settings of the balancer.
        """
        number = sum(1 for path in self._folder.iterdir() if path.name.startswith("nginx"))
        folder = self._folder / f"nginx{number}"
        with nginx.balancing(self._nginx, folder, name, number, settings) as front:
            yield front

    def ask(self, front: Front, number: int, client: str = LOAD, tokens: int = 4, pace: int = 0) -> Ask:
        """Return a request: requests take turns between the models.

        Args:
            front: the way.
            number: number of the request.
            client: name of the client.
            tokens: tokens of the answer.
            pace: milliseconds between two tokens.
        """
        model = MODELS[number % len(MODELS)]
        return Ask(front.at(model, number // len(MODELS)), model, front.keys[client], tokens, pace)

    def knobs(self, slots: int = 0, prompt: int = 0) -> None:
        """Set all instances.

        Args:
            slots: answers at once; 0 for no bound.
            prompt: milliseconds before a first token.
        """
        for place in ALL_INSTANCES:
            url = f"http://{place.address}:{place.port}/knobs?slots={slots}&prompt={prompt}"
            urllib.request.urlopen(url, timeout=30).close()

    def kill(self, place: Place) -> None:
        """Kill an instance."""
        self._running.pop(place).close()

    def revive(self, place: Place) -> None:
        """Start an instance."""
        demand_free(place)
        words = [sys.executable, "-m", "tests.bench.gateway.instance", place.address, str(place.port)]
        with ExitStack() as stack:
            process = stack.enter_context(started(words, _ROOT, self._folder, signal.SIGKILL))
            wait_for(place, process, nginx.STARTS)
            self._running[place] = stack.pop_all()

    def reload(self, front: Front) -> None:
        """Load the configuration anew: nginx by SIGHUP; LiteLLM ends and starts again, because it has no reload."""
        if self._peer and front.name == LITELLM:
            self._peer.end()
            self._peer.start()
        else:
            kill(front.pid, signal.SIGHUP)


@contextmanager
def rig(folder: Path, programs: Path | None, say: Callable[[str], None]) -> Iterator[Rig]:
    """Run everything for the bench, and end everything, whatever happens.

    Args:
        folder: an empty folder.
        programs: folder of LiteLLM's programs; None without LiteLLM.
        say: called with a line before each long step.
    """
    ground = Rig(folder, programs, say)
    try:
        ground.start()
        yield ground
    finally:
        ground.close()
