"""The answers in the simulated servers' logs: whether any answer was ever given twice at once."""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from provision.lab.lab import Lab

_LINE = re.compile(r'^time=(\S+) .*msg="simulated: generation (begins|ends)" prompt=(\w+)', re.MULTILINE)
_START = re.compile(r'^time=(\S+) .*msg="server config"', re.MULTILINE)


@dataclass(frozen=True)
class Generation:
    """One answer in the making: the prompt's hash, the instance, begin and end in seconds."""

    prompt: str
    instance: str
    begun: float
    ended: float


def read(lab: Lab, since: float) -> list[Generation]:
    """All generations of a lab's instances since a time (seconds since 1970)."""
    return [one for place, log, ended in _logs(lab, since) for one in parse(place, log, ended)]


def _logs(lab: Lab, since: float) -> Iterable[tuple[str, str, float]]:
    for host in (host for host in lab.hosts() if host.spec.group == "gpu"):
        for name in host.run(["docker", "ps", "--all", "--format", "{{.Names}}"]).stdout.split():
            state = host.run(["docker", "inspect", "--format", "{{.State.Running}} {{.State.FinishedAt}}", name]).stdout
            running, finished = state.split()
            done = host.run(["docker", "logs", "--since", f"{since:.3f}", name])
            ended = float("inf") if running == "true" else _seconds(finished[:26].rstrip("Z"))
            yield f"{host.name}/{name}", done.stdout + done.stderr, ended


def parse(instance: str, log: str, stopped: float) -> list[Generation]:
    """The generations in one log. A killed generation ended, at the latest, when its server stopped or began anew.

    Args:
        instance: the instance with this log.
        log: text of the log.
        stopped: when the instance stopped; infinity while it runs.
    """
    starts = [_seconds(stamp) for stamp in _START.findall(log)]
    open_: dict[str, float] = {}
    generations = []
    for stamp, what, prompt in _LINE.findall(log):
        if what == "begins":
            open_[prompt] = _seconds(stamp)
        elif prompt in open_:
            generations.append(Generation(prompt, instance, open_.pop(prompt), _seconds(stamp)))
    for prompt, begun in open_.items():
        generations.append(Generation(prompt, instance, begun, min((s for s in starts if s > begun), default=stopped)))
    return generations


def twice(generations: Iterable[Generation]) -> list[tuple[Generation, Generation]]:
    """Pairs of generations of one prompt at the same time."""
    by_prompt: Mapping[str, list[Generation]] = defaultdict(list)
    for generation in generations:
        by_prompt[generation.prompt].append(generation)
    pairs = []
    for some in by_prompt.values():
        ordered = sorted(some, key=lambda generation: generation.begun)
        pairs += [
            (generation, later) for generation, later in itertools.pairwise(ordered) if later.begun < generation.ended
        ]
    return pairs


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.removesuffix("Z") + "+00:00").timestamp()
