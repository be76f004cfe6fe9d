"""One load test from beginning to end: the load, its figures, the verdict; once, or in steps."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.errors import UsageError
from provision.inventory import Targets
from provision.loadtest import capacity, drive, verdict
from provision.loadtest.capacity import Capacity, Step
from provision.loadtest.drive import Ended, Load, Web
from provision.loadtest.measure import Figures, Summary, Tally, summary
from provision.loadtest.target import Endpoint
from provision.loadtest.verdict import Judged

BUSY = 0.85  # share of its time from which Locust itself may be what is slow
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
        """That of DESIGN 8: 130 interrupted, 7 ended by our own guard, 5 a target was missed, 0."""
        if self.ended.interrupted:
            return 130
        if self.ended.guarded:
            return 7
        missed = self.capacity.holds is None if self.capacity else not all(one.passed for one in self.judged)
        return 5 if missed else 0


def once(
    load: Load, endpoint: Endpoint, targets: Targets, show: Callable[[Tally], None], web: Web | None = None
) -> Result:
    """Run the load once and judge it.

    Args:
        load: what to do.
        endpoint: for the instances' names and weights.
        targets: what has to be reached.
        show: is told how it goes.
        web: as for `drive.run`.
    """
    tally = Tally()
    ended = drive.run(load, tally, show, web)
    found = summary(tally, endpoint.weights)
    findings = [*verdict.odd(found), *_tired(ended)] if tally.count else ["no request came to its end"]
    return Result(load, found, tally, ended, verdict.judge(found, targets), findings)


def find_capacity(load: Load, endpoint: Endpoint, targets: Targets, show: Callable[[int, Tally], None]) -> Result:
    """Search for the number of users that the endpoint holds.

    Args:
        load: `users` is the most to try, `seconds` the length of a step.
        endpoint: as for `once`.
        targets: what has to be reached.
        show: is told the users of a step, and how it goes.
    """
    latest: list[Result] = []

    def run(users: int) -> Step | None:
        rate = max(load.spawn_rate, users / 2)
        one = dataclasses.replace(load, users=users, spawn_rate=rate, seconds=max(load.seconds, SHORTEST_STEP) + 2)
        # A step that fails is an answer here, so it is not ended for that.
        one = dataclasses.replace(one, most_failures=1.0)
        tally = Tally()
        ended = drive.run(one, tally, lambda found: show(users, found))
        begun = min((record.at for record in tally.records), default=0.0) + users / rate
        found = summary(tally, endpoint.weights, (begun, begun + load.seconds))
        judged = verdict.judge(found, targets)
        latest.append(Result(one, found, tally, ended, judged, [*verdict.odd(found), *_tired(ended)]))
        return None if ended.interrupted else Step(users, found, judged)

    came = capacity.search(run, load.users)
    last = latest[-1]
    last.capacity = came
    last.findings = list(dict.fromkeys(line for one in latest for line in one.findings))
    return last


def _tired(ended: Ended) -> list[str]:
    if ended.cpu < BUSY:
        return []
    return [f"Locust itself was busy {ended.cpu:.0%} of its time: the figures may be its own; say more --processes"]


def baseline(path: str) -> Mapping[str, Any]:
    """The document of an earlier run.

    Raises:
        UsageError: there is none.
    """
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"the baseline {path} cannot be read: {error}", "it is what --json printed") from error
    if not isinstance(found, dict):
        raise UsageError(f"the baseline {path} is no document of `provision loadtest --json`")
    return found


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
