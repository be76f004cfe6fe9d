"""A fault before or during a run: how a test makes it, what the run must show, and how the test lifts it."""

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
# The locks' guard, and files that only record what a run found and began.
LEFT_ANYWAY = ("/run/provision/lock.guard", "/var/lib/provision/journal/", "/var/lib/provision/store/")
SPOILT = "/opt/provision/lib/docker-notes"  # drift on a host without the fault: deploy must mend it all the same


def nothing(_: World) -> None:
    """Do nothing."""


def both(*actions: Action) -> Action:
    """Several actions, one after the other."""
    return lambda world: [action(world) for action in actions]


@dataclass(frozen=True)
class Case:
    """A fault.

    Args:
        bad: makes the fault; before the run, or at the step `at`.
        says: patterns that the screen must have; empty where the run succeeds.
        mend: lifts the fault.
        step: a pattern of the failing step; empty where no step fails.
        at: the step at which the fault comes; empty for before the run.
        host: the host with the fault.
        ready: makes sure that there is something to do; before the run.
        code: the exit code.
        stops: whether the code is 7 where the run had begun to replace an instance, because the roll is then halted.
        race: whether the run may also succeed, because a step may come just before or after the fault.
        env: further variables of the first run's environment.
        result: the host's result in the recap.
        balancer: whether the balancer has to answer all along.
        hanging: label of the instance that takes requests and never answers; see `Watch`.
        keep: whether the host must have the same containers before and after the run.
        words: further words of the commands.
        put_back: whether the host is thrown away afterwards and restored as deployed.
        leaves: beginnings of paths that may differ after the run; all other paths must be the same. None where the run
            changed more before it failed. With a value, a second run with --json must report the same failure.
        stays_locked: whether the fault also keeps the run from giving its lock back. The next run knows that the
            first is over.
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
    """The cases as parameters; `make test` runs the sample too."""
    return [
        pytest.param(case, id=name, marks=[pytest.mark.sample] if name == sample else [])
        for name, case in cases.items()
    ]


def play(world: World, case: Case, seen: Seen) -> None:
    """Run into the fault; then lift the fault and deploy again."""
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
                assert watch.containers(case.host) == containers, "the host has other containers now"
            case.mend(world)
            mended = True
            if case.balancer:
                world.nginx_is_good()  # the linked configuration is the old one, or was checked
            if case.result == "unreachable":
                world.expire()
            assert world.locked() == ([case.host] if case.stays_locked else []), "these hosts are still locked"
            seen.second(world, *case.words)
            if case.stays_locked:
                world.expire()  # a second deploy without a change took no lock
            watch.check()
    finally:
        if not mended:
            with contextlib.suppress(LabError):  # else an error of mending would hide the failure
                case.mend(world)
        if case.put_back:
            world.put_back(case.host)


def _run_into(world: World, case: Case) -> tuple[Done, dict[str, str]]:
    """Deploy with the fault, now or coming; also return the host's files from before."""
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
    """The document of `deploy --json` names the failure, and the result of the other host."""
    done = world.fleet.provision("deploy", "--yes", "--json", env=dict(case.env))
    assert done.code == done.doc["exit"] == case.code, done
    host = done.host(case.host)
    assert (host["result"], done.host(other)["result"], host["changed"]) == (case.result, "ok", []), done
    assert re.fullmatch(case.step, host["failed"]["step"]), done
    assert done.doc["summary"][case.result] == 1


def _untouched(world: World, case: Case, before: dict[str, str]) -> None:
    """Only the files that the case allows, and the journal, differ from before."""
    after = world.traces(case.host)
    differing = sorted({path for path, _ in before.items() ^ after.items()})
    other = [path for path in differing if not path.startswith((*LEFT_ANYWAY, *(case.leaves or ())))]
    assert other == [], f"files that differ: {other}"
    if case.result != "locked":
        assert "/run/provision/lock" not in after
