"""One load test from beginning to end: the load, its figures, the verdict; once, or in steps."""

import dataclasses
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import ProvisionError, UsageError
from provision.inventory import Targets
from provision.loadtest import capacity, drive, verdict
from provision.loadtest.capacity import Capacity, Step
from provision.loadtest.drive import Ended, Load, Web
from provision.loadtest.measure import Figures, Summary, Tally, summary
from provision.loadtest.target import Endpoint
from provision.loadtest.verdict import Judged

BUSY = 0.85  # share of its time from which Locust itself may be what is slow
LIKE = "compare like with like"
SHORTEST_STEP = 3.0  # seconds of a step that are measured, after all its users have begun


@dataclass
class Result:
    """What a load test came to.

    Args:
        load: what was done; of a search for the capacity, its last step.
        found: the figures.
        tally: the requests.
        ended: how it ended.
        judged: the targets, and those of the baseline.
        findings: what an operator should look at, each a sentence.
        capacity: what the endpoint holds, where that was asked.
    """

    load: Load
    found: Summary
    tally: Tally
    ended: Ended
    judged: list[Judged] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    capacity: Capacity | None = None

    @property
    def exit_code(self) -> int:
        """The command's exit code: 130 interrupted, 7 ended by our own guard, 5 a target was missed, else 0."""
        if self.ended.interrupted:
            return 130
        if self.ended.guarded:
            return 7
        missed = self.capacity.holds is None if self.capacity else not all(one.passed for one in self.judged)
        return 5 if missed else 0


def once(
    load: Load,
    endpoint: Endpoint,
    targets: Targets,
    show: Callable[[Tally], None],
    wish: threading.Event,
    web: Web | None = None,
) -> Result:
    """Run the load once and judge it.

    Args:
        load: what to do.
        endpoint: for the instances' names and weights.
        targets: what has to be reached.
        show: is told how it goes.
        wish: set when the operator wants to stop.
        web: as for `drive.run`.
    """
    tally = endpoint.tally()
    ended = drive.run(load, tally, show, wish, web)
    found = summary(tally, endpoint.weights, length=None if web else load.seconds)
    findings = _findings(found, tally, ended) if tally.count else ["no request came to its end"]
    return Result(load, found, tally, ended, verdict.judge(found, targets), findings)


class _Steps:
    """Runs one step after another of a search for the capacity."""

    def __init__(self, load: Load, endpoint: Endpoint, targets: Targets, wish: threading.Event) -> None:
        self.load, self.endpoint, self.targets, self.wish = load, endpoint, targets, wish
        self.results: list[Result] = []

    def run(self, users: int, show: Callable[[Tally], None]) -> Step | None:
        """Run a step; None if it did not come to its end."""
        length = max(self.load.seconds, SHORTEST_STEP)
        rate = max(self.load.spawn_rate, users / 2)
        # A step that fails is an answer here, so it is not ended for that.
        load = dataclasses.replace(
            self.load, users=users, spawn_rate=rate, seconds=length + users / rate, most_failures=1.0
        )
        tally = self.endpoint.tally()
        ended = drive.run(load, tally, show, self.wish)
        begun = min((record.at for record in tally.records), default=0.0) + users / rate
        found = summary(tally, self.endpoint.weights, (begun, begun + length))
        judged = verdict.judge(found, self.targets)
        self.results.append(Result(load, found, tally, ended, judged, _findings(found, tally, ended)))
        if not found.overall.requests and not ended.why:
            raise ProvisionError(f"no answer ended within a step of {length:g} s", "say a longer --duration")
        return None if ended.why else Step(users, found, judged)


def find_capacity(
    load: Load,
    endpoint: Endpoint,
    targets: Targets,
    show: Callable[[int, Tally], None],
    wish: threading.Event,
) -> Result:
    """Search for the number of users that the endpoint holds.

    Args:
        load: `users` is the most to try, `seconds` the length of a step.
        endpoint: as for `once`.
        targets: what has to be reached.
        show: is told the users of a step, and how it goes.
        wish: set when the operator wants to stop.
    """
    steps = _Steps(load, endpoint, targets, wish)
    came = capacity.search(lambda users: steps.run(users, lambda tally: show(users, tally)), load.users)
    last = steps.results[-1]
    last.capacity = came
    held = came.holds and next(one for one in steps.results if one.load.users == came.holds.users)
    last.findings = held.findings if held else last.findings
    return last


def _findings(found: Summary, tally: Tally, ended: Ended) -> list[str]:
    return [*verdict.odd(found), *verdict.lumps(tally.records), *_tired(ended)]


def _tired(ended: Ended) -> list[str]:
    if ended.cpu < BUSY:
        return []
    return [f"Locust itself was busy {ended.cpu:.0%} of its time: the figures may be its own; say more --processes"]


def baseline(path: str, load: Load) -> Mapping[str, Any]:
    """The figures of an earlier run of the same test.

    Args:
        path: what `--json` printed.
        load: the test that is to be compared with it.

    Raises:
        UsageError: it is no such document, or was another test.
    """
    try:
        found = json.loads(Path(path).read_text())
        said = {"model": load.profile.model, "profile": load.profile.name, "users": load.users}
        for key, now in {**said, "max_tokens": load.profile.max_tokens}.items():
            if found[key] != now:
                raise UsageError(f"the baseline is of another test: its {key} is {found[key]}, not {now}", LIKE)
        overall: Mapping[str, Any] = found["overall"]
        numbers = [overall["fail_share"], overall["tokens_per_second"]]
        numbers += [overall[name][point] or 0.0 for name, point in verdict.COMPARED]
    except OSError as error:
        raise UsageError(
            f"the baseline {path} cannot be read: {error.strerror}", "it is what --json printed"
        ) from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"the baseline {path} is no document of `provision loadtest --json`") from error
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise UsageError(f"the baseline {path} is no document of `provision loadtest --json`")
    return overall


def document(result: Result) -> dict[str, Any]:
    """The body of `loadtest --json`."""
    load, found = result.load, result.found
    return {
        "targets": list(load.targets),
        "model": load.profile.model,
        "profile": load.profile.name,
        "max_tokens": load.profile.max_tokens,
        "users": load.users,
        "seconds": found.seconds,
        "stopped": result.ended.why,
        "overall": _figures(found.overall),
        "instances": [{"instance": name, **_figures(own)} for name, own in found.instances.items()],
        "skew": found.skew,
        "retried": found.retried,
        "verdict": [dataclasses.asdict(one) for one in result.judged],
        "findings": list(result.findings),
        "capacity": _capacity(result.capacity),
    }


def _figures(own: Figures) -> dict[str, Any]:
    return {**dataclasses.asdict(own), "fail_share": own.fail_share}


def _capacity(found: Capacity | None) -> dict[str, Any] | None:
    if found is None:
        return None
    named = {"holds": found.holds, "broke": found.broke, "knee": found.knee}
    steps: Sequence[Step] = found.steps
    return {**{name: step and _step(step) for name, step in named.items()}, "steps": [_step(step) for step in steps]}


def _step(step: Step) -> dict[str, Any]:
    verdicts = [dataclasses.asdict(one) for one in step.judged]
    return {"users": step.users, "holds": step.holds, "overall": _figures(step.found.overall), "verdict": verdicts}
