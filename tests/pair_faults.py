"""Faults of a balancer that has the common address: how to make and to mend each."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from provision.lab import faults
from provision.steps.keepalived.layout import UNIT
from tests.fleet import wait_for
from tests.pair import BALANCERS, Pair

SETTLED = 5  # seconds until the address has a single holder
KILL = 'for name in %s; do pkill -9 -x "$name" || :; done'


def _kill(*names: str) -> Callable[[Pair, str], None]:
    def kill(pair: Pair, holder: str) -> None:
        pair.on(holder, "sh", "-c", KILL % " ".join(names))

    return kill


def _fault(name: str, *, on: bool) -> Callable[[Pair, str], None]:
    def switch(pair: Pair, holder: str) -> None:
        faults.switch(pair.lab, holder, name, on=on)

    return switch


def _cable(*, on: bool) -> Callable[[Pair, str], None]:
    def plug(pair: Pair, holder: str) -> None:
        pair.lab.network.plug(pair.lab.host(holder).spec.number, on=on)

    return plug


def _reboot(pair: Pair, holder: str) -> None:
    host = pair.lab.host(holder)
    host.shutdown()
    host.start()
    host.wait()


def _nothing(pair: Pair, holder: str) -> None:
    del pair, holder


def _hang(pair: Pair, holder: str) -> None:
    pair.on(holder, "sh", "-c", "pkill -STOP -x nginx")


def _go_on(pair: Pair, holder: str) -> None:
    pair.on(holder, "sh", "-c", "pkill -CONT -x nginx || :")


def _stop(pair: Pair, holder: str) -> None:
    pair.on(holder, "systemctl", "stop", UNIT)


def _start(pair: Pair, holder: str) -> None:
    pair.on(holder, "systemctl", "start", UNIT)


@dataclass(frozen=True)
class PairFault:
    """A fault of the holder.

    Args:
        name: in words, for the table.
        make: makes the fault; gets the pair and the holder.
        mend: mends the fault.
        moves: whether another balancer has to have the address afterwards.
        splits: whether the holder takes itself for the holder all the time: at its return the priority decides.
        returns: name of the return of the old holder, for a row of the table; empty for no row.
    """

    name: str
    make: Callable[[Pair, str], None]
    mend: Callable[[Pair, str], None] = _nothing
    moves: bool = True
    splits: bool = False
    returns: str = ""


FAULTS = (
    PairFault("nginx killed (SIGKILL)", _kill("nginx"), moves=False),
    PairFault("nginx hangs (SIGSTOP)", _hang, _go_on),
    PairFault("keepalived killed (SIGKILL)", _kill("keepalived"), moves=False),
    PairFault("keepalived stopped", _stop, _start),
    PairFault("nginx and keepalived killed", _kill("nginx", "keepalived"), moves=False),
    PairFault("cable cut (no carrier)", _cable(on=False), _cable(on=True), returns="cable back"),
    PairFault(
        "every packet lost (carrier stays)",
        _fault("cut", on=True),
        _fault("cut", on=False),
        splits=True,
        returns="packets pass again",
    ),
    PairFault("power off", _fault("power-off", on=True), _fault("power-off", on=False), returns="power back"),
    PairFault("reboot", _reboot),
)


def survives(pair: Pair, fault: PairFault) -> None:
    """Make a fault of the holder, mend the fault, and demand what the page promises.

    Args:
        pair: the balancers.
        fault: the fault.
    """
    pair.settled()
    holder = pair.holders()[0]
    other = next(name for name in BALANCERS if name != holder)
    pair.speed(2, 80)
    try:
        stream = pair.stream()
        with pair.probing() as probe:
            fault.make(pair, holder)
            if fault.moves:
                wait_for(lambda: other in pair.holders(), 60)
            wait_for(probe.ask, 60)
            time.sleep(SETTLED)
        outcome = stream.outcome.partition(":")[0]
    finally:
        pair.speed(60, 16)
    assert probe.answers[-1][1], "new requests are answered in the end"
    assert outcome != "whole", "a stream of a dead balancer is lost"
    now = [name for name in pair.holders() if name == other or not fault.moves]
    fault.mend(pair, holder)
    pair.settled()
    time.sleep(SETTLED)
    assert pair.holders() == now or fault.splits, "no second switch"
    wait_for(lambda: pair.provision("plan", "--exit-code").code == 0, 120)
    verified = pair.provision("verify", "--json")
    assert verified.code == 0, verified
