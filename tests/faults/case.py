"""A fault that is there before a run or comes while it goes on: how it is made, what must be seen, how it is lifted."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from provision.lab.shell import LabError
from tests.faults.running import Running
from tests.faults.screen import one_clear_screen
from tests.faults.seen import Seen
from tests.faults.watch import Watch, ask
from tests.faults.world import BAD, GOOD, World
from tests.fleet import Done

Action = Callable[[World], object]
# The locks' guard, and what only says what was found and begun.
LEFT_ANYWAY = ("/run/provision/lock.guard", "/var/lib/provision/journal/", "/var/lib/provision/store/")
SPOILT = "/opt/provision/lib/docker-notes"  # drift on a host without the fault: it must be mended all the same


def nothing(_: World) -> None:
    """Nothing to do."""


def both(*actions: Action) -> Action:
    """Several things, one after the other."""
    return lambda world: [action(world) for action in actions]


@dataclass(frozen=True)
class Case:
    """A fault.

    Args:
        bad: makes it; before the run, or at the step `at`.
        says: what the screen must say of it, as patterns; nothing where the run succeeds.
        mend: lifts it.
        step: a pattern of the step at which the run fails; empty where it is none.
        at: the step at which the fault comes; empty for before the run.
        host: where it is.
        ready: what makes sure that there is something to do; before the run.
        code: the exit code.
        stops: whether it is 7 instead where the run had begun to replace an instance: then it goes no further.
        race: whether the run may also succeed, because what it does may come just before or after the fault.
        env: further variables of the first run's environment.
        result: of that host in the recap.
        balancer: whether the balancer has to answer all along.
        hanging: label of the instance that takes requests and never answers; see `Watch`.
        keep: whether the containers of the host must be those of before, after the run.
        words: further words of the commands.
        put_back: whether the host is thrown away afterwards and put back as it was deployed.
        leaves: beginnings of paths that may differ after the run, where nothing else may; None where more was changed
            before it failed. Then it is also run once more with --json, and its document says the same.
        stays_locked: whether what fails also keeps the lock from being given back. The next run knows that it is over.
    """

    bad: Action
    says: tuple[str, ...] = ()
    mend: Action = nothing
    step: str = ""
    at: str = ""
    host: str = BAD
    ready: Action = nothing
    code: int = 3
    stops: bool = False
    race: bool = False
    env: tuple[tuple[str, str], ...] = ()
    result: str = "failed"
    balancer: bool = True
    hanging: str = ""
    keep: bool = True
    words: tuple[str, ...] = ()
    put_back: bool = False
    leaves: tuple[str, ...] | None = None
    stays_locked: bool = False


def params(cases: dict[str, Case], sample: str) -> list[Any]:
    """The cases as parameters; the sample is what `make test` runs too."""
    return [
        pytest.param(case, id=name, marks=[pytest.mark.sample] if name == sample else [])
        for name, case in cases.items()
    ]


def play(world: World, case: Case, seen: Seen) -> None:
    """Run into a fault; then lift it and deploy again."""
    other, mended = GOOD if case.host != GOOD else BAD, False
    try:
        with Watch(world.lab, case.host, balancer=case.balancer, hanging=case.hanging, cable=world.cable) as watch:
            case.ready(world)
            world.sh(f"echo '# by hand' >>{SPOILT}", host=other)
            containers = watch.containers(case.host) if case.keep else ""
            done, before = _run_into(world, case)
            seen.first(done)
            _judge(world, case, done, other)
            if case.leaves is not None:
                _says_the_same(world, case, other)
                _untouched(world, case, before)
            if case.keep:
                assert watch.containers(case.host) == containers, "the host's own containers are others now"
            case.mend(world)
            mended = True
            if case.balancer:
                world.nginx_is_good()  # what is linked is what was there before, or was checked
            if case.result == "unreachable":
                world.expire()
            assert world.locked() == ([case.host] if case.stays_locked else []), "whose lock was not given back"
            seen.second(world, *case.words)
            if case.stays_locked:
                world.expire()  # where the second deploy had nothing to change, it took no lock
            watch.check()
    finally:
        if not mended:
            with contextlib.suppress(LabError):  # else what failed is hidden by what cannot be lifted
                case.mend(world)
        if case.put_back:
            world.put_back(case.host)


def _run_into(world: World, case: Case) -> tuple[Done, dict[str, str]]:
    """Deploy with the fault there, or coming; and what files there were before."""
    if not case.at:
        case.bad(world)
        before = world.traces(case.host)
        return Running(world.fleet, "deploy", "--yes", *case.words, env=dict(case.env)).end(), before
    at = rf"^{case.host} +changing +{re.escape(case.at)}(\s|$)"
    running = Running(world.fleet, "deploy", "--yes", "-v", *case.words, hold_at=at, env=dict(case.env))
    try:
        running.until_held()
        case.bad(world)
        running.go()
        return running.end(), {}
    finally:
        running.kill()


def _judge(world: World, case: Case, done: Done, other: str) -> None:
    if case.code and not (case.race and done.code == 0):
        one_clear_screen(done, case.host, (case.code, 7) if case.stops else (case.code,), case.result, case.step)
    else:
        assert done.code == 0, done
    part = done.out.split("\nHOST ")[0]
    for pattern in case.says:
        assert done.code == 0 or re.search(pattern, part), (pattern, done)
    assert "by hand" not in world.sh(f"cat {SPOILT}", host=other), "the other host did not finish"
    assert world.half_written(case.host) == []
    if case.balancer:
        ask(world.lab)


def _says_the_same(world: World, case: Case, other: str) -> None:
    """The document of `deploy --json` names the failure, and what the others came to."""
    done = world.fleet.provision("deploy", "--yes", "--json", env=dict(case.env))
    assert done.code == done.doc["exit"] == case.code, done
    host = done.host(case.host)
    assert (host["result"], done.host(other)["result"], host["changed"]) == (case.result, "ok", []), done
    assert re.fullmatch(case.step, host["failed"]["step"]), done
    assert done.doc["summary"][case.result] == 1


def _untouched(world: World, case: Case, before: dict[str, str]) -> None:
    """No file of the host is otherwise than before, but for what is said to be left, and the journal."""
    after = world.traces(case.host)
    differing = sorted({path for path, _ in before.items() ^ after.items()})
    other = [path for path in differing if not path.startswith((*LEFT_ANYWAY, *(case.leaves or ())))]
    assert other == [], f"files that differ: {other}"
    if case.result != "locked":
        assert "/run/provision/lock" not in after
