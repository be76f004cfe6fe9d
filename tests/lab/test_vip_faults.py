"""What takes the common address from its holder: new requests are answered again, one balancer has the address, and the
return of the old holder moves nothing. The seconds are in docs/reliability.md (`make bench-vip`)."""

import threading
import time

import pytest

from provision.lab import faults
from tests.fleet import NAME, wait_for
from tests.pair import Pair, made, taken_down
from tests.pair_faults import FAULTS, PairFault, survives

pytestmark = [pytest.mark.lab, pytest.mark.matrix]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    deployed = made(f"{NAME}-pair", tmp_path_factory.mktemp("pair"))
    yield deployed
    taken_down(deployed)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_new_requests_are_answered_again_and_nothing_moves_back(pair: Pair, fault: PairFault) -> None:
    survives(pair, fault)


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
