"""Ways in which a connection, a host or the controller goes away in the middle of a run."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.running import Running
from tests.faults.world import World

SESSIONS = (
    "systemctl stop ssh.socket ssh.service 2>/dev/null || :; for pid in $(pgrep sshd); do kill -9 $pid || :; done"
)


@dataclass(frozen=True)
class Cut:
    """A way to cut a run.

    Args:
        name: name of the cut.
        strike: cuts a host, or the run.
        lift: undoes the cut.
        code: the run's exit code; None where the run is killed.
        silent: whether the host's peers get no sign that the host is gone.
        serves: whether the programs on the host go on answering.
    """

    name: str
    strike: Callable[[World, str, Running], object]
    lift: Callable[[World, str], object]
    code: int | None = 4
    silent: bool = False
    serves: bool = True


CUTS = {
    cut.name: cut
    for cut in (
        Cut(
            "dropped",
            lambda world, host, _: world.fault("cut", "on", host),
            lambda world, host: world.fault("cut", "off", host),
            silent=True,
            serves=False,
        ),
        Cut(
            "reset",
            lambda world, host, _: world.fault("ssh-reset", "on", host),
            lambda world, host: world.fault("ssh-reset", "off", host),
        ),
        Cut(
            "sshd-killed",
            lambda world, host, _: world.sh(SESSIONS, host=host),
            lambda world, host: world.sh("systemctl start ssh.service", host=host),
        ),
        Cut(
            "powered-off",
            lambda world, host, _: world.fault("power-off", "on", host),
            lambda world, host: world.power_on(host),
            serves=False,
        ),
        Cut("killed", lambda _world, _host, running: running.kill(), lambda _world, _host: None, code=None),
    )
}
