"""What takes the common address from its holder: new requests are answered again, one balancer has the address, and the
return of the old holder moves nothing. The seconds are in docs/reliability.md (`make bench-vip`)."""

import threading
import time

import pytest

from provision.lab import faults
from provision.steps.keepalived.layout import UNIT
from tests.fleet import NAME, wait_for
from tests.pair import BALANCERS, Pair, made, taken_down
from tests.pair_faults import FAULTS, SETTLED, PairFault, survives

pytestmark = [pytest.mark.lab, pytest.mark.matrix]
FAKED = "/etc/faketimerc"  # says by how much libfaketime shifts the clock
LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"
# keepalived and its check see another clock; CLOCK_MONOTONIC never jumps, so libfaketime leaves it alone.
PRELOAD = f"""
apt-get install -qy libfaketime >/dev/null 2>&1; echo +0 >{FAKED}; mkdir -p /run/systemd/system/{UNIT}.d
{{ echo '[Service]'; echo "Environment=LD_PRELOAD=$(ls {LIBRARY}) FAKETIME_TIMESTAMP_FILE={FAKED}"
  echo 'Environment=FAKETIME_NO_CACHE=1 DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_FAKE_MONOTONIC=1'
}} >/run/systemd/system/{UNIT}.d/clock.conf
systemctl daemon-reload; systemctl restart {UNIT}; sleep 1
grep -q libfaketime /proc/$(cat /run/provision-keepalived/vrrp.pid)/maps
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    deployed = made(f"{NAME}-pair", tmp_path_factory.mktemp("pair"))
    yield deployed
    taken_down(deployed)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_new_requests_are_answered_again_and_nothing_moves_back(pair: Pair, fault: PairFault) -> None:
    survives(pair, fault)


def seen(pair: Pair, name: str) -> float:
    """Return by how many seconds the clock of keepalived is ahead on a balancer."""
    shown = pair.on(name, "sh", "-c", f"env $(systemctl show {UNIT} -P Environment) date +%s")
    return int(shown) - time.time()


def test_a_clock_that_jumps_moves_no_address(pair: Pair) -> None:
    for name in BALANCERS:
        pair.settled()
        pair.on(name, "sh", "-ec", PRELOAD)
    pair.settled()
    holder = pair.holders()
    try:
        with pair.probing() as probe:
            for jump in ("+1d", "-1d", "+0"):
                for name in BALANCERS:
                    pair.on(name, "sh", "-c", f"echo {jump} >{FAKED}")
                    assert jump == "+0" or abs(seen(pair, name)) > 80000
                    time.sleep(SETTLED)
                    assert pair.holders() == holder
        assert probe.lost == 0
    finally:
        for name in BALANCERS:
            pair.on(name, "sh", "-c", f"rm -r /run/systemd/system/{UNIT}.d; systemctl daemon-reload")
            pair.on(name, "systemctl", "restart", UNIT)
            pair.settled()


def test_new_settings_of_keepalived_move_no_address(pair: Pair) -> None:
    pair.settled()
    holder = pair.holders()
    try:
        with pair.probing() as probe:
            pair.vars["keepalived"] = {"fall": 3, "advertise": "0.6s"}
            done = pair.deploy()
            assert all(done.host(name)["changed"] == ["config:keepalived"] for name in BALANCERS)
            time.sleep(SETTLED)
            assert pair.holders() == holder
        assert probe.lost == 0
    finally:
        del pair.vars["keepalived"]
        pair.deploy()


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
