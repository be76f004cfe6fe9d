"""One load test from beginning to end: the load, its figures, the verdict; a single run, or in steps."""

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
from provision.loadtest.sizing import Sizing, sized
from provision.loadtest.target import Endpoint
from provision.loadtest.verdict import Verdict

BUSY = 0.85  # share of its time from which Locust itself may be the slow part
LIKE = "compare like with like"
SHORTEST_STEP = 3.0  # seconds of a step that are measured, after all its users have begun


@dataclass
class Result:
    """The result of a load test.

    Args:
        load: the load; in a search for the capacity, of the last step.
        figures: the figures.
        tally: the requests.
        ended: the end of the run.
        verdicts: the targets, and the targets of the baseline.
        findings: sentences about things for an operator to look at.
        capacity: the capacity of the endpoint, where asked for.
        sizing: the instances that numbers of users need; None where unknown.
    """

    load: Load
    figures: Summary
    tally: Tally
    ended: Ended
    verdicts: list[Verdict] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    capacity: Capacity | None = None
    sizing: Sizing | None = None

    @property
    def overload(self) -> str:
        """Why the endpoint is overloaded, in words; empty where not. In a search some step always is."""
        return "" if self.capacity else verdict.overload(self.figures, self.verdicts)

    @property
    def exit_code(self) -> int:
        """The command's exit code: 130 interrupted, 7 ended by our own guard, 5 a target was missed, else 0."""
        if self.ended.interrupted:
            return 130
        if self.ended.guarded:
            return 7
        missed = self.capacity.holds is None if self.capacity else not all(target.passed for target in self.verdicts)
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
        load: the load.
        endpoint: for the instances' names and weights.
        targets: the targets to reach.
        show: called with the tally a few times a second.
        wish: set when the operator wants to stop.
        web: see `drive.run`.
    """
    tally = endpoint.tally()
    ended = drive.run(load, tally, show, wish, web)
    figures = summary(tally, endpoint.weights, length=None if web else load.seconds)
    findings = _findings(figures, tally, ended) if tally.count else ["no request was completed"]
    return Result(load, figures, tally, ended, verdict.judge(figures, targets), findings)


class _Steps:
    """Runs one step after another of a search for the capacity."""

    def __init__(self, load: Load, endpoint: Endpoint, targets: Targets, wish: threading.Event) -> None:
        self.load, self.endpoint, self.targets, self.wish = load, endpoint, targets, wish
        self.results: list[Result] = []

    def run(self, users: int, show: Callable[[Tally], None]) -> Step | None:
        """Run a step; None if the step was not completed."""
        length = max(self.load.seconds, SHORTEST_STEP)
        rate = max(self.load.spawn_rate, users / 2)
        # A failing step is an answer here, so its failures do not end it.
        load = dataclasses.replace(
            self.load, users=users, spawn_rate=rate, seconds=length + users / rate, most_failures=1.0
        )
        tally = self.endpoint.tally()
        ended = drive.run(load, tally, show, self.wish)
        begun = min((record.at for record in tally.records), default=0.0) + users / rate
        figures = summary(tally, self.endpoint.weights, (begun, begun + length))
        verdicts = verdict.judge(figures, self.targets)
        self.results.append(Result(load, figures, tally, ended, verdicts, _findings(figures, tally, ended)))
        if not figures.overall.requests and not ended.why:
            raise ProvisionError(f"no answer ended within a step of {length:g} s", "give a longer --duration")
        return None if ended.why else Step(users, figures, verdicts)


def find_capacity(
    load: Load,
    endpoint: Endpoint,
    targets: Targets,
    show: Callable[[int, Tally], None],
    wish: threading.Event,
    wanted: int | None = None,
) -> Result:
    """Search for the number of users that the endpoint holds.

    Args:
        load: `users` is the most to try, `seconds` the length of a step.
        endpoint: see `once`.
        targets: the targets to reach.
        show: called with the users of a step and the tally a few times a second.
        wish: set when the operator wants to stop.
    """
    steps = _Steps(load, endpoint, targets, wish)
    outcome = capacity.search(lambda users: steps.run(users, lambda tally: show(users, tally)), load.users)
    last = steps.results[-1]
    last.capacity = outcome
    last.sizing = sized(outcome, len(endpoint.weights), wanted)
    held = outcome.holds and next(result for result in steps.results if result.load.users == outcome.holds.users)
    last.findings = held.findings if held else last.findings
    return last


def _findings(figures: Summary, tally: Tally, ended: Ended) -> list[str]:
    return [*verdict.odd(figures), *verdict.lumps(tally.records), *verdict.untold(figures), *_tired(ended)]


def _tired(ended: Ended) -> list[str]:
    if ended.cpu < BUSY:
        return []
    return [f"Locust itself was busy {ended.cpu:.0%} of its time: the figures may be its own; give more --processes"]


def baseline(path: str, load: Load) -> Mapping[str, Any]:
    """The figures of an earlier run of the same test.

    Args:
        path: a file with the output of `--json`.
        load: the test to compare with it.

    Raises:
        UsageError: the file is no such document, or is of another test.
    """
    try:
        before = json.loads(Path(path).read_text())
        test = {"model": load.profile.model, "profile": load.profile.name, "users": load.users}
        for key, now in {**test, "max_tokens": load.profile.max_tokens}.items():
            if before[key] != now:
                raise UsageError(f"the baseline is of another test: its {key} is {before[key]}, not {now}", LIKE)
        overall: Mapping[str, Any] = before["overall"]
        numbers = [overall["fail_share"], overall["tokens_per_second"]]
        numbers += [overall[name][point] or 0.0 for name, point in verdict.COMPARED]
    except OSError as error:
        raise UsageError(
            f"the baseline {path} cannot be read: {error.strerror}", "give a file with the output of --json"
        ) from error
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(f"the baseline {path} is no document of `provision loadtest --json`") from error
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise UsageError(f"the baseline {path} is no document of `provision loadtest --json`")
    return overall


def document(result: Result) -> dict[str, Any]:
    """The body of `loadtest --json`."""
    load, figures = result.load, result.figures
    return {
        "targets": list(load.targets),
        "model": load.profile.model,
        "profile": load.profile.name,
        "max_tokens": load.profile.max_tokens,
        "users": load.users,
        "seconds": figures.seconds,
        "stopped": result.ended.why,
        "overloaded": result.overload,
        "overall": _figures(figures.overall),
        "instances": [{"instance": name, **_figures(own)} for name, own in figures.instances.items()],
        "skew": figures.skew,
        "retried": figures.retried,
        "verdict": [dataclasses.asdict(target) for target in result.verdicts],
        "findings": list(result.findings),
        "capacity": _capacity(result.capacity),
        "sizing": result.sizing and _sizing(result.sizing),
    }


def _figures(own: Figures) -> dict[str, Any]:
    return {**dataclasses.asdict(own), "fail_share": own.fail_share, "queued_share": own.queued_share}


def _capacity(result: Capacity | None) -> dict[str, Any] | None:
    if result is None:
        return None
    named = {"holds": result.holds, "broke": result.broke, "knee": result.knee}
    steps: Sequence[Step] = result.steps
    return {**{name: step and _step(step) for name, step in named.items()}, "steps": [_step(step) for step in steps]}


def _sizing(sizing: Sizing) -> dict[str, Any]:
    needs = [{"users": users, "instances": instances} for users, instances in sizing.needs]
    return {"instances": sizing.instances, "knee": sizing.knee, "limited": sizing.limited, "needs": needs}


def _step(step: Step) -> dict[str, Any]:
    verdicts = [dataclasses.asdict(target) for target in step.verdicts]
    return {"users": step.users, "holds": step.holds, "overall": _figures(step.figures.overall), "verdict": verdicts}
