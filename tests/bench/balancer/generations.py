"""What the simulated servers' logs say of their answers: whether one was ever given twice at once."""

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
    """The generations in one log. One that was killed ended, at the latest, when its server stopped or began anew.

    Args:
        instance: whose log.
        log: what it wrote.
        stopped: when it stopped; infinity while it runs.
    """
    starts = [_seconds(stamp) for stamp in _START.findall(log)]
    open_: dict[str, float] = {}
    found = []
    for stamp, what, prompt in _LINE.findall(log):
        if what == "begins":
            open_[prompt] = _seconds(stamp)
        elif prompt in open_:
            found.append(Generation(prompt, instance, open_.pop(prompt), _seconds(stamp)))
    for prompt, begun in open_.items():
        found.append(Generation(prompt, instance, begun, min((s for s in starts if s > begun), default=stopped)))
    return found


def twice(generations: Iterable[Generation]) -> list[tuple[Generation, Generation]]:
    """Pairs of generations of one prompt that ran at the same time."""
    by_prompt: Mapping[str, list[Generation]] = defaultdict(list)
    for one in generations:
        by_prompt[one.prompt].append(one)
    found = []
    for some in by_prompt.values():
        ordered = sorted(some, key=lambda one: one.begun)
        found += [(one, other) for one, other in itertools.pairwise(ordered) if other.begun < one.ended]
    return found


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.removesuffix("Z") + "+00:00").timestamp()
