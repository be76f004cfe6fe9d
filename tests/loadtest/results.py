"""Results of load tests for the page: overloaded, good, a search for the capacity, hostile, without answers."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from provision.inventory import Targets
from provision.loadtest import session
from provision.loadtest.about import About
from provision.loadtest.capacity import Capacity, Step, result
from provision.loadtest.drive import Ended, Load
from provision.loadtest.measure import Tally, summary
from provision.loadtest.profile import Profile
from provision.loadtest.record import Record
from provision.loadtest.sizing import sized
from provision.loadtest.target import Member
from provision.loadtest.verdict import judge, odd

INSTANCES = tuple(f"gpu-0{host}/ollama{number}" for host in (1, 2) for number in (1, 2))
BEGUN = 1796034000.0  # 2026-11-30 10:20:00 UTC

ABOUT = About(
    command="provision loadtest --inventory prod.yaml --users 16 --extra-vars 'ollama.models=***' --html report.html",
    begun=BEGUN,
    provision="0.1.0",
    locust="2.47.0",
    server="0.34.4",
    simulated=True,
    notes=["the model server is simulated by the provision lab", "gpt-oss:20b is not loaded: the first answers wait"],
    members=[Member(name, (number,), 1, 1, ("gpt-oss:20b",)) for number, name in enumerate(INSTANCES)],
)


def tally(users: int, seconds: float, places: int = 4) -> Tally:
    """Return the requests of users at an endpoint of some places; answers last about four seconds."""
    chance, found = random.Random(users), Tally()  # noqa: S311 - no secret
    for user in range(users):
        at = chance.uniform(0, 0.5)
        while at < seconds:
            wait = max(0.0, users - places) / places * 4.0 * chance.uniform(0.6, 1.4)
            ttft = 0.12 + chance.uniform(0, 0.1) + wait
            answered = Record(BEGUN + at, "http://10.0.0.5:3008", INSTANCES[user % 4], status=200, ttft=ttft)
            gaps = [0.03] * 120
            whole = replace(
                answered, total=ttft + 3.7, tokens=121, arrivals=121, decode=3.7, queued=wait + 0.01, gaps=gaps
            )
            late = whole.total > 60
            found.add(replace(whole, total=60.0, problem="timeout", detail="no end within 60 s") if late else whole)
            at += min(60.0, whole.total)
    return found


def tested(found: Tally, users: int, **targets: object) -> session.Result:
    """Return the result of a run."""
    figures = summary(found, dict.fromkeys(INSTANCES, 1.0), length=60.0)
    load = Load(("http://10.0.0.5:3008",), Profile("chat", "gpt-oss:20b", 128), users, 10.0, 60.0)
    return session.Result(load, figures, found, Ended(), judge(figures, Targets(**targets)), odd(figures))


def overloaded() -> session.Result:
    """Return a run with four users for every place, of whom two timed out after their first token."""
    found = tally(16, 60.0)
    for number in range(2):
        found.add(
            Record(BEGUN + 2.0 + number, "http://10.0.0.5:3008", INSTANCES[0], problem="timeout", ttft=55.5, total=60.0)
        )
    return tested(found, 16)


def good() -> session.Result:
    """Return a run in which every user had a place."""
    return tested(tally(4, 60.0), 4)


def searched() -> session.Result:
    """Return a search for the capacity."""
    runs = {users: tested(tally(users, 20.0), users) for users in (1, 2, 4, 8)}
    outcome: Capacity = result([Step(users, run.figures, run.verdicts) for users, run in runs.items()])
    last = runs[8]
    last.capacity, last.sizing = outcome, sized(outcome, 4, None)
    return last


def hostile() -> session.Result:
    """Return a run whose server and instances have names that break pages, formulas and plots."""
    names = ("<script>alert(1)</script>", "_hidden$\\frac{", "x" * 500, "]]></svg>", "\x1b[2Jred", "\u202eright", " ")
    found = Tally()
    for number, name in enumerate(names):
        for problem in ("", "<b>timeout</b>"):
            detail = "<img src=x onerror=alert(1)>" if problem else ""
            one = Record(BEGUN + number, "http://t", name, 200, problem=problem, detail=detail, ttft=0.5, total=2.0)
            found.add(replace(one, tokens=9, arrivals=9))
    return tested(found, 1, max_skew="5%")


def empty() -> session.Result:
    """Return a run without a request."""
    return tested(Tally(), 8)


RESULTS: Mapping[str, Callable[[], session.Result]] = {
    "overloaded": overloaded,
    "good": good,
    "searched": searched,
    "hostile": hostile,
    "empty": empty,
}
