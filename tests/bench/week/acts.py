"""The faults and changes of the week, each by its class. An act returns when the fleet is well again."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from provision.lab import faults
from provision.lab.lab import Lab
from provision.lab.spec import Spec
from tests.faults.world import World
from tests.fleet import Done, wait_for
from tests.pair import BALANCERS, PORT, Pair
from tests.pair_faults import FAULTS

REACTION = 60  # seconds until an operator hears of a fault
OFF = 30  # seconds without power
LOGS = "/var/log/provision-nginx"
VICTIM, DARK = "gpu-01/ollama1", "gpu-02"
KILL = 'kill -9 "$(docker inspect -f {{.State.Pid}} "$1")"'
PAIR = {fault.name: fault for fault in FAULTS}


class Fleet(Pair):
    """Two balancers with a common address and TLS, in front of two gpu hosts with two instances each."""

    last_roll = ""
    """The id of the last roll."""

    @classmethod
    def made(cls, name: str, folder: Path) -> "Fleet":
        """Return the fleet in a lab of its own, deployed.

        Args:
            name: name of the lab.
            folder: folder for the inventory and the authority.
        """
        lab = Lab.up(Spec(name, 2, 2, 2), install=True)
        fleet = cls(lab, folder)
        fleet.share()
        fleet.vars["ollama"]["num_parallel"] = 4  # room for all requests where a host is away
        fleet.vars["balancer"].update(shutdown_timeout="30s", tls={"authority": "ca", "names": ["llm.example"]})
        fleet.well("ca", "init", "--name", "the week")
        fleet.deploy()
        fleet.settled()
        return fleet

    @property
    def url(self) -> str:
        """The common address, for clients."""
        return f"https://{self.vip}:{PORT}"

    def well(self, *words: str) -> Done:
        """Run a command of ours, which must succeed."""
        done = self.provision(*words)
        if done.code:
            raise SystemExit(f"provision {shlex.join(words)}: {done}")
        return done

    @property
    def holder(self) -> str:
        """The balancer with the address."""
        self.settled()
        return self.holders()[0]

    def answers(self, label: str) -> bool:
        """Whether an instance answers on its own host."""
        host, _, name = label.partition("/")
        url = f"http://{self.address(host)}:{3000 + int(name.removeprefix('ollama'))}/api/version"
        return "yes" in self.on(host, "sh", "-c", f"curl -sf -m 2 {url} >/dev/null && echo yes || :")


def instance_killed(fleet: Fleet) -> None:
    """The kernel kills an instance; Docker starts the instance again."""
    host, _, name = VICTIM.partition("/")
    fleet.on(host, "sh", "-c", KILL, "sh", name)
    wait_for(lambda: fleet.answers(VICTIM), 120)


def instance_hangs(fleet: Fleet) -> None:
    """An operator drains a hanging instance after a while, and gives it back repaired."""
    faults.switch(fleet.lab, VICTIM, "hang", on=True)
    try:
        time.sleep(REACTION)
        fleet.well("drain", VICTIM, "-m", "hangs", "--force", "--timeout", "5s")
    finally:
        faults.switch(fleet.lab, VICTIM, "hang", on=False)
    fleet.well("undrain", VICTIM)


def host_off(fleet: Fleet) -> None:
    """A gpu host loses its power."""
    faults.switch(fleet.lab, DARK, "power-off", on=True)
    time.sleep(OFF)


def host_back(fleet: Fleet) -> None:
    """The gpu host has power again."""
    faults.switch(fleet.lab, DARK, "power-off", on=False)
    fleet.lab.host(DARK).wait()
    wait_for(lambda: fleet.answers(f"{DARK}/ollama2"), 120)


def nginx_killed(fleet: Fleet) -> None:
    """systemd starts nginx of the balancer again."""
    PAIR["nginx killed (SIGKILL)"].make(fleet, fleet.holder)
    time.sleep(OFF)


def balancer_off(fleet: Fleet) -> None:
    """The balancer with the address loses its power."""
    faults.switch(fleet.lab, fleet.holder, "power-off", on=True)
    time.sleep(OFF)


def balancer_back(fleet: Fleet) -> None:
    """The balancer has power again."""
    dark = next(name for name in BALANCERS if not fleet.lab.host(name).running)
    faults.switch(fleet.lab, dark, "power-off", on=False)
    fleet.lab.host(dark).wait()
    fleet.settled()


def balancer_cut(fleet: Fleet) -> None:
    """The cable of the balancer with the address is cut, and comes back."""
    cable, holder = PAIR["cable cut (no carrier)"], fleet.holder
    cable.make(fleet, holder)
    time.sleep(OFF)
    cable.mend(fleet, holder)
    fleet.settled()


def roll(fleet: Fleet) -> None:
    """Another setting replaces every container."""
    settings = fleet.vars["ollama"]
    settings["context_length"] = 2048 if settings.get("context_length") != 2048 else 4096
    fleet.last_roll = str(fleet.deploy().doc["run"])


def rollback(fleet: Fleet) -> None:
    """The last roll is taken back."""
    settings = fleet.vars["ollama"]
    fleet.well("rollback", fleet.last_roll, "--yes")
    settings["context_length"] = 2048 if settings.get("context_length") != 2048 else 4096


def configuration(fleet: Fleet) -> None:
    """Another nginx.conf, with a planned switch before the holder changes."""
    settings = fleet.vars["balancer"]
    settings["read_timeout"] = "1700s" if settings.get("read_timeout") != "1700s" else "1800s"
    fleet.deploy()


def certificate(fleet: Fleet) -> None:
    """New certificates for both balancers."""
    fleet.well("ca", "renew")
    fleet.deploy("--tags", "balancer")


@contextlib.contextmanager
def _full(fleet: Fleet, host: str) -> Iterator[None]:
    world = World(fleet, fleet.lab, fleet.folder)
    world.full(LOGS, host)
    try:
        yield
    finally:
        world.roomy(LOGS, host)
        fleet.on(host, "sh", "-c", "kill -USR1 $(cat /run/provision-nginx/nginx.pid)")


def disk_full(fleet: Fleet) -> None:
    """The balancer cannot write its logs, until an operator makes room."""
    with _full(fleet, fleet.holder):
        time.sleep(REACTION)


ACTS: dict[str, Callable[[Fleet], None]] = {
    "instance-killed": instance_killed,
    "roll": roll,
    "host-off": host_off,
    "host-back": host_back,
    "configuration": configuration,
    "balancer-off": balancer_off,
    "balancer-back": balancer_back,
    "rollback": rollback,
    "instance-hangs": instance_hangs,
    "certificate": certificate,
    "nginx-killed": nginx_killed,
    "disk-full": disk_full,
    "balancer-cut": balancer_cut,
}
"""Class -> act, in the order of the week. A return follows its fault, and a rollback follows a roll."""
