"""Two operators deploy to the same host at once: the second is refused, or waits; never do both change the host."""

import pytest

from tests.faults.case import Case, params, play
from tests.faults.common import container_back, key_back, one_container, one_key
from tests.faults.running import Running
from tests.faults.screen import one_clear_screen
from tests.faults.watch import Watch
from tests.faults.world import BAD

pytestmark = [pytest.mark.lab, pytest.mark.faults]
LEASE = "20260101T000000Z-beef 99999999 1 alice@desk\n\n"
LOCK = "/run/provision/lock"

CASES = {
    "somebody else has the lease": Case(
        lambda w: [one_key(w), w.write(LOCK, LEASE)],
        ("locked by alice@desk, run 20260101T000000Z-beef", "expires by itself"),
        lambda w: [w.sh(f"rm -f {LOCK}"), key_back(w)],
        code=6,
        result="locked",
        leaves=(LOCK,),
    ),
    "somebody takes the lease of a run away": Case(
        lambda w: w.write(LOCK, LEASE),
        ("locked by alice@desk",),
        lambda w: [w.sh(f"rm -f {LOCK}"), container_back(w), key_back(w)],
        r"\S+",
        at="docker_config:daemon.json",
        ready=lambda w: [one_key(w), one_container(w)],
        code=6,
        result="locked",
        keep=False,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "somebody else has the lease"))
def test_operators(world, seen, case):
    play(world, case, seen)


@pytest.fixture
def first(world):
    """One operator's run, held still while it changes the host; afterwards the containers are counted."""
    one_container(world)
    running = Running(world.fleet, "deploy", "--yes", "-v", hold_at=rf"^{BAD} +changing +container:ollama1\s")
    running.until_held()
    yield running
    running.go()
    running.kill()


def test_the_second_is_refused_and_the_first_comes_to_its_end(world, seen, first):
    with Watch(world.lab, BAD, balancer=True) as watch:
        refused = world.fleet.provision("deploy", "--yes", env={"XDG_STATE_HOME": str(world.folder)})
        seen.first(refused)
        # the first run has locked the balancer as well, and a lock that is a second older is told in words of its own
        one_clear_screen(refused, BAD, (6,), "locked", errors=2)
        first.go()
        done = first.end()
        assert done.code == 0, done
        watch.check()
    container_back(world)
    seen.second(world)


def test_the_second_waits_and_then_finds_nothing_to_do(world, seen, first):
    second = Running(world.fleet, "deploy", "--yes", "-v", "--lock-wait", "3m", hold_at="waiting: locked by")
    second.until_held()
    first.go()
    done = first.end()
    assert done.code == 0, done
    started = world.sh("docker inspect -f '{{.State.StartedAt}}' ollama1")
    second.go()
    done = second.end()
    seen.first(done)
    assert done.code == 0, done
    assert world.sh("docker inspect -f '{{.State.StartedAt}}' ollama1") == started, "the container was made anew twice"
    container_back(world)
    seen.second(world)
