"""The clock of a host is off by a day. All programs of the host but Docker's see the day: libfaketime is preloaded."""

import time

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import TOOLKIT, container_back, key_back, no_package, one_container, one_key

pytestmark = [pytest.mark.lab, pytest.mark.faults]
WORK = {"ready": both(one_key, one_container), "keep": False}
DONE = both(key_back, container_back)


def off(days):
    """From now on every starting program sees another day."""

    def change(world):
        world.sh(
            'apt-get install -qy libfaketime >/dev/null 2>&1; echo "$1" >/etc/faketimerc;'
            " ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/etc/ld.so.preload; systemctl restart ssh",
            f"{days:+d}d",
        )
        assert abs(int(world.sh("date +%s")) - time.time()) > 80000

    return change


def right(world):
    world.sh("rm -f /etc/ld.so.preload /etc/faketimerc; systemctl restart ssh")


def asks_apt(world):
    no_package(world)
    world.sh("rm -rf /var/lib/apt/lists/*")


CASES = {
    "a day ahead": Case(off(1), mend=both(right, DONE), code=0, **WORK),
    "a day behind": Case(off(-1), mend=both(right, DONE), code=0, **WORK),
    "a day ahead, with a package to install": Case(both(off(1), asks_apt), mend=right, code=0),
    "years behind, with a package to install": Case(
        both(off(-3000), asks_apt), ("not valid yet|Not live until|clock|Release file",), right, TOOLKIT
    ),
    "it jumps a day ahead in the middle of the run": Case(
        off(1), mend=both(right, DONE), at="docker_config:daemon.json", code=0, **WORK
    ),
}


@pytest.mark.parametrize("case", params(CASES, "a day ahead, with a package to install"))
def test_clock(world, seen, case):
    play(world, case, seen)
