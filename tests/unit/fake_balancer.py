"""A balancer without a host: nginx takes any configuration, and says which streams are left."""

from collections.abc import Callable, Mapping

from provision.command import Answer, Put, Run
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.runs import lock
from provision.steps.facts import HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.nginx import upstream
from provision.steps.nginx.balancer_config import Balancing
from provision.steps.nginx.generation import GENERATIONS
from provision.testing import FakeHost

LOCKED = Answer(lock.EXIT_HELD, b"", b"run-2 900 100 200 no them@there\n\n")


class FakeBalancer(FakeHost):
    """A balancer whose nginx is stopped, with a configuration of ours.

    Args:
        files: name -> bytes of the configuration.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(reply=self._told)
        self.config = dict(files)
        self.generation = "0" * 12
        self.locked = False
        """Whether another run has the lock."""
        self.ran: list[str] = []
        """The names of the scripts that ran, in order."""
        self.before: Callable[[str], None] = lambda script: None
        """Called with the name of a script before it runs."""

    @classmethod
    def of(cls, inventory: Inventory, name: str) -> "FakeBalancer":
        """Make the balancer of an inventory, with every instance in its upstream.

        Args:
            inventory: the inventory.
            name: the balancer.
        """
        entries = role_interface.steps(inventory.host(name), inventory)
        step = next(entry.step for entry in entries if isinstance(entry.step, Balancing))
        fleet = FleetState({host.name: host.connection.address for host in inventory.hosts if host.gpu})
        want = step.in_fleet(fleet).want(HostFacts(), None)
        assert want is not None
        return cls({file: content.data for file, content in want["files"].items()})

    @property
    def upstream(self) -> str:
        """The text of the upstream."""
        return self.config[upstream.FILE].decode()

    @property
    def drained(self) -> list[str]:
        """The instances that are drained, sorted."""
        return sorted(upstream.drained(self.upstream))

    def _told(self, run: Run) -> Answer:
        self.before(run.script)
        self.ran.append(run.script)
        match run.script:
            case "lock/acquire":
                return LOCKED if self.locked else Answer(0)
            case "nginx/read-generation":
                return Answer(0, self._read())
            case "nginx/install-generation":
                self._install(run.words[5])
            case "nginx/wait-idle":
                return Answer(0, b"open 0\n")
        return Answer(0)

    def _install(self, generation: str) -> None:
        """Take the files that were written since the last configuration."""
        start = max(n for n, command in enumerate(self.commands) if getattr(command, "script", "") == "nginx/prepare")
        written = [command for command in self.commands[start:] if isinstance(command, Put)]
        self.config = {put.path.rpartition("/")[2]: put.content for put in written}
        self.generation = generation

    def _read(self) -> bytes:
        head = f"kind link\ntarget {GENERATIONS}/{self.generation}\n# files\n".encode()
        return head + b"".join(
            f"/etc/provision/nginx/{name}\0f\0".encode()
            + b"0644\0root:root\0\0"
            + f"content {len(data)}\n".encode()
            + data
            + b"\n"
            for name, data in sorted(self.config.items())
        )
