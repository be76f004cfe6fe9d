"""Admission, the only way back into the upstream, and the state after a failed admission."""

from pathlib import Path
from typing import Any

import pytest

from provision.errors import HostError, LockedError
from provision.rollout.admission import Failure
from provision.rollout.members import Membership
from provision.rollout.roll import Roll
from provision.steps.speed import Speed

from .fake_roll import Said, gpu, pool_of, roll, traffic

LABEL = "a/ollama1"


def admission(folder: Path, *, ill: bool = False) -> tuple[Roll, Any]:
    """Return a roll that creates `LABEL`, and the admission of the host."""
    host = gpu("a")
    made = roll(folder, host)
    assert traffic(made, host).hold("ollama1")
    return made, traffic(made, host, ill=["ollama1"] if ill else []).admission


@pytest.mark.parametrize("failure", Failure)
def test_an_instance_that_passes_the_test_gets_requests(tmp_path: Path, failure: Failure) -> None:
    made, own = admission(tmp_path)
    own.admit("ollama1", made.pools.of(own.host), failure)
    assert pool_of(made).down == set()
    assert made.members.state(LABEL) is Membership.IN
    assert own.lease.held == (failure is not Failure.HALTS), "another run may be working on the instance"


@pytest.mark.parametrize(
    ("failure", "state", "halts"),
    [
        (Failure.HALTS, Membership.NOT_READY, True),
        (Failure.STAYS_OUT, Membership.NOT_READY, False),
        (Failure.IGNORED, Membership.NEW, False),
    ],
)
def test_an_instance_that_fails_the_test_stays_out(
    tmp_path: Path, failure: Failure, state: Membership, halts: bool
) -> None:
    made, own = admission(tmp_path, ill=True)
    with pytest.raises(HostError, match="not fit to serve"):
        own.admit("ollama1", made.pools.of(own.host), failure)
    assert pool_of(made).down == {LABEL}
    assert made.members.state(LABEL) is state
    assert bool(made.members.halted) == halts


@pytest.mark.parametrize(
    ("failure", "state", "halts"),
    [(Failure.HALTS, None, True), (Failure.STAYS_OUT, None, False), (Failure.IGNORED, Membership.NEW, False)],
)
def test_an_unreachable_balancer_keeps_the_instance_out(
    tmp_path: Path, failure: Failure, state: Membership | None, halts: bool
) -> None:
    made, own = admission(tmp_path)
    pool_of(made).unreachable = True
    with pytest.raises(HostError) as error:
        own.admit("ollama1", made.pools.of(own.host), failure)
    assert error.value.message == "a/ollama1 could not be admitted: lb-0: lost"
    assert made.members.state(LABEL) is state
    assert bool(made.members.halted) == halts


@pytest.mark.parametrize("failure", [Failure.STAYS_OUT, Failure.IGNORED])
def test_an_instance_locked_by_another_run_is_left_to_the_other_run(tmp_path: Path, failure: Failure) -> None:
    made, own = admission(tmp_path)
    own.lease.taken = True
    with pytest.raises(LockedError):
        own.admit("ollama1", made.pools.of(own.host), failure)
    assert made.members.state(LABEL) is Membership.NEW
    assert made.members.halted == ""


def test_an_unexpected_admission_is_announced(tmp_path: Path) -> None:
    said, host = Said(), gpu("a")
    made = roll(tmp_path, host)
    traffic(made, host, say=said).admission.announce("ollama1")
    assert said.texts == ["the instance gets requests again"]


def test_the_lock_of_a_dead_run_does_not_keep_an_instance_out(tmp_path: Path) -> None:
    """Admission takes the lock as the rest of a run does: by `Lease.wait`, which knows dead runs and --lock-wait."""
    made, own = admission(tmp_path)
    own.admit("ollama1", made.pools.of(own.host), Failure.STAYS_OUT)
    assert own.lease.waits == [made.context.lock_wait]


def test_an_instance_that_is_several_times_slower_than_elsewhere_stays_out(tmp_path: Path) -> None:
    made, own = admission(tmp_path)
    for name in ("b/ollama1", "c/ollama1"):
        made.speeds.judge(name, Speed("m:latest on NVIDIA L40S", 60.0))
    own.session.says = "card NVIDIA L40S\nspeed 16 4000000000 m\n"
    with pytest.raises(HostError) as failure:
        own.admit("ollama1", made.pools.of(own.host))
    figures = "4.0 tokens per second, and the median of 3 instances is 60.0"
    assert f"m:latest on NVIDIA L40S is more than 4 times slower than elsewhere: {figures}" in failure.value.message
    assert pool_of(made).down == {LABEL}
    assert made.members.state(LABEL) is Membership.NOT_READY


def test_a_slow_first_answer_after_a_load_keeps_no_healthy_instance_out(tmp_path: Path) -> None:
    made, own = admission(tmp_path)
    for name in ("b/ollama1", "c/ollama1"):
        made.speeds.judge(name, Speed("m:latest on NVIDIA L40S", 60.0))
    warm = "card NVIDIA L40S\nspeed 16 270000000 m\n"
    own.session.says = "card NVIDIA L40S\nspeed 16 4000000000 m\n"

    def warms_up(name: str) -> None:
        if own.session.proved:
            own.session.says = warm

    own.session.testing = warms_up
    own.admit("ollama1", made.pools.of(own.host))
    assert own.session.proved == ["ollama1", "ollama1"]
    assert made.members.state(LABEL) is Membership.IN


def test_a_speed_that_cannot_be_compared_is_said_and_admits(tmp_path: Path) -> None:
    made, own = admission(tmp_path)
    told: list[str] = []
    own.say = lambda kind, step, text: told.append(text)
    own.session.says = "not asked: whether the model is on the cards\ncard NVIDIA L40S\nspeed 16 4000000000 m\n"
    own.admit("ollama1", made.pools.of(own.host))
    assert told[1:] == [
        "not asked: whether the model is on the cards",
        "not asked: whether m:latest on NVIDIA L40S is slow: 1 of at least 3 comparable instances",
    ]
    assert made.members.state(LABEL) is Membership.IN
