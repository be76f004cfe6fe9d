"""A rollback, a drain and an undrain, struck at critical moments; then the same command goes on."""

import contextlib
import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bench.roll.load import Load
from tests.faults.common import container_back, one_container
from tests.faults.cuts import CUTS, Cut
from tests.faults.running import Running
from tests.faults.screen import one_clear_screen
from tests.faults.seen import Seen
from tests.faults.walk import KEPT
from tests.faults.watch import Watch
from tests.faults.world import BAD, BALANCER, World
from tests.fleet import Done

ONE = f"{BAD}/ollama1"
KNOBS = "/etc/provision-lab/knobs.json"
MARK = rf"^{BALANCER} +changing +config:balancer +{ONE}"


@dataclass(frozen=True)
class Act:
    """A command that takes an instance out of the upstream, or gives it back, or both.

    Args:
        ready: makes sure that the command has something to do; returns its words.
        out: labels that are out of the upstream at the end of the command.
        back: undoes the command.
    """

    ready: Callable[[World], tuple[str, ...]]
    out: frozenset[str]
    back: Callable[[World], object]


def _rollback(world: World) -> tuple[str, ...]:
    one_container(world)
    done = world.fleet.deploy()
    container_back(world)
    return ("rollback", done.doc["run"], "--yes")


def _drain(_: World) -> tuple[str, ...]:
    return ("drain", ONE, "-m", "a new fan")


def _undrain(world: World) -> tuple[str, ...]:
    _well(world.fleet.provision(*_drain(world)))
    return ("undrain", ONE)


def _well(done: Done) -> None:
    assert done.code == 0, done


ACTS = {
    "rollback": Act(_rollback, frozenset(), lambda _: None),
    "drain": Act(_drain, frozenset({ONE}), lambda world: _well(world.fleet.provision("undrain", ONE))),
    "undrain": Act(_undrain, frozenset(), lambda _: None),
}


@dataclass(frozen=True)
class Moment:
    """The moment when a command is struck.

    Args:
        command: a key of `ACTS`.
        when: the moment, in words.
        at: a pattern of the line of output at that moment.
        out: whether the instance is out of the upstream at that moment.
        streams: whether the command waits for running streams.
    """

    command: str
    when: str
    at: str
    out: bool = False
    streams: bool = False

    def __str__(self) -> str:
        return f"{self.command}, {self.when}"


TAKEN = Moment("rollback", "an instance is taken out", rf"{MARK} down")
AWAITED = Moment(
    "rollback",
    "its streams are waited for",
    rf"^{BAD} +progress +container:ollama1 .*still run",
    out=True,
    streams=True,
)
MADE = Moment("rollback", "it is out and made anew", rf"^{BAD} +changed +container:ollama1", out=True)
TESTED = Moment("rollback", "it is out and tested", rf"^{BAD} +progress +test:ollama1", out=True)
GIVEN = Moment("rollback", "it is given back", rf"{MARK} up")
DRAINED = Moment("drain", "a balancer is told", rf"{MARK} drained$")
WAITED = Moment("drain", "streams are waited for", rf"^{BALANCER} +progress +drain .*still run", out=True, streams=True)
PROVED = Moment("undrain", "the instance is tested", rf"^{BAD} +progress +test:ollama1", out=True)
UNDRAINED = Moment("undrain", "a balancer is told", rf"{MARK} drained no longer")

KILLS = (TAKEN, AWAITED, MADE, TESTED, GIVEN, DRAINED, WAITED, PROVED, UNDRAINED)


@dataclass(frozen=True)
class Strike:
    """A connection that is cut at a moment.

    Args:
        moment: the moment.
        cut: a key of `CUTS`.
        host: the host whose connection is cut.
        failed: the host whose part fails.
        result: that host's result in the recap.
        codes: the right exit codes; 7 where an instance was out of the upstream, because the roll is then halted.
        errors: how many hosts fail.
    """

    moment: Moment
    cut: str
    host: str
    failed: str
    result: str
    codes: tuple[int, ...]
    errors: int = 1

    def __str__(self) -> str:
        return f"{self.cut}, {self.host}: {self.moment}"


STRIKES = (
    Strike(MADE, "reset", BAD, BAD, "unreachable", (7,)),
    Strike(TESTED, "reset", BAD, BAD, "unreachable", (7,)),
    Strike(TESTED, "dropped", BAD, BAD, "unreachable", (7,)),
    Strike(TAKEN, "reset", BALANCER, BAD, "failed", (3, 7), errors=2),
    Strike(TESTED, "reset", BALANCER, BAD, "failed", (7,), errors=2),
    Strike(GIVEN, "reset", BALANCER, BAD, "failed", (7,), errors=2),
    Strike(DRAINED, "reset", BALANCER, BALANCER, "unreachable", (4,)),
    Strike(WAITED, "reset", BALANCER, BALANCER, "unreachable", (4,)),
    Strike(PROVED, "reset", BAD, BAD, "unreachable", (4,)),
    Strike(UNDRAINED, "reset", BALANCER, BALANCER, "unreachable", (4,)),
)


Next = Callable[[tuple[str, ...], Done], tuple[str, ...]]
"""Judges the output of a struck command, and returns the words of the command that goes on."""


def killed_there(world: World, moment: Moment, seen: Seen) -> None:
    """Kill the controller at a moment. The same command goes on; after a rollback, a deploy does."""
    _struck(
        world,
        moment,
        (CUTS["killed"], BAD),
        seen,
        lambda words, _: ("deploy", "--yes") if moment.command == "rollback" else words,
    )


def cut_there(world: World, strike: Strike, seen: Seen) -> None:
    """Cut a connection at a moment. The command that the run's own screen names goes on."""
    command = strike.moment.command
    about = "" if command == "rollback" else rf"{ONE}  "
    # Where every host of the rollback failed, the command that goes on names no host.
    rest = rf"rollback \S+ -i \S+(?: -l \S*{strike.failed}\b|$)"
    again = rest if command == "rollback" else rf"{command} {ONE} -i \S+"

    def judge(_: tuple[str, ...], done: Done) -> tuple[str, ...]:
        one_clear_screen(done, strike.failed, strike.codes, strike.result, r"\S*", again, about, strike.errors)
        said = shlex.split(re.search(r"again: provision (.*)", done.out)[1])
        return (*said, *(["--yes"] if command == "rollback" else []))

    _struck(world, strike.moment, (CUTS[strike.cut], strike.host), seen, judge)


def _struck(world: World, moment: Moment, cut_off: tuple[Cut, str], seen: Seen, judge: Next) -> None:
    act, (cut, host) = ACTS[moment.command], cut_off
    words = act.ready(world)
    with Watch(world.lab, BAD, balancer=True, streams=cut.serves) as watch:
        with _streams(world) if moment.streams else contextlib.nullcontext():
            running = Running(world.fleet, *words, "-v", hold_at=moment.at)
            try:
                running.until_held()
                assert world.down() >= ({ONE} if moment.out else set())
                cut.strike(world, host, running)
                running.go()
                done = running.end()
                seen.first(done)
                goes_on = judge(words, done)
            finally:
                running.kill()
                cut.lift(world, host)
        world.nginx_is_good()
        # This machine knows of the end of the run, so no command waits for the locks of the run.
        _well(world.fleet.provision(*goes_on))
        assert world.down() == act.out
        act.back(world)
        assert world.down() == set()
        seen.second(world)
        world.expire()  # a host without a remaining change keeps the lock of the struck run
        watch.check(lost=KEPT if cut.silent else 0)


@contextlib.contextmanager
def _streams(world: World) -> Iterator[None]:
    """Streams of some seconds over every instance of the host; no stream may be cut."""
    address = world.lab.host(BALANCER).address
    world.write(KNOBS, json.dumps({"tokens_per_second": 20, "answer_tokens": 5000}))
    try:
        with Load(address, 4, 200, "struck") as load:
            yield
        assert load.answers
        assert load.failed == []
    finally:
        world.sh(f"rm -f {KNOBS}")
