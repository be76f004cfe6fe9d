"""What takes the common address from its holder: new requests are answered again, one balancer has the address, and the
return of the old holder moves nothing. The seconds are in docs/reliability.md (`make bench-vip`)."""

import threading
import time

import pytest

from provision.lab import faults
from tests.fleet import NAME, wait_for
from tests.pair import BALANCERS, Pair, made, taken_down
from tests.pair_faults import FAULTS, PairFault

pytestmark = pytest.mark.lab
IN_EVERY_RUN = ("nginx hangs (SIGSTOP)", "power off")
SETTLED = 5  # seconds until the address has a single holder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    deployed = made(f"{NAME}-pair", tmp_path_factory.mktemp("pair"))
    yield deployed
    taken_down(deployed)


def marks(fault: PairFault) -> list[pytest.MarkDecorator]:
    return [] if fault.name in IN_EVERY_RUN else [pytest.mark.matrix]


@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name, marks=marks(fault)) for fault in FAULTS])
def test_new_requests_are_answered_again_and_nothing_moves_back(pair: Pair, fault: PairFault) -> None:
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


@pytest.mark.matrix
@pytest.mark.parametrize("command", ["deploy", "roll", "rollback"])
def test_a_run_goes_on_or_stops_cleanly_while_the_holder_dies(pair: Pair, command: str) -> None:
    pair.settled()
    holder = pair.holders()[0]
    declared = dict(pair.vars["balancer"]), dict(pair.vars["ollama"])
    words: tuple[str, ...] = ("deploy", "--yes", "--json")
    if command == "roll":
        pair.vars["ollama"]["num_parallel"] = 2
    else:
        pair.vars["balancer"]["read_timeout"] = "1700s"
    if command == "rollback":
        words = ("rollback", pair.deploy().doc["run"], "--yes", "--json")
        pair.settled()
        holder = pair.holders()[0]
    done = []
    running = threading.Thread(target=lambda: done.append(pair.provision(*words)))
    with pair.probing() as probe:
        running.start()
        time.sleep(1)
        faults.switch(pair.lab, holder, "power-off", on=True)
        running.join()
    assert done[0].code in (3, 4, 5, 7), "a run that lost a balancer does not call itself well"
    assert probe.answers[-1][1]
    faults.switch(pair.lab, holder, "power-off", on=False)
    pair.lab.host(holder).wait()
    pair.vars["balancer"], pair.vars["ollama"] = declared
    wait_for(lambda: pair.provision("deploy", "--yes", "--json").code == 0, 120)
    pair.settled()
    assert pair.provision("verify", "--json").code == 0
