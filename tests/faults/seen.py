"""The results of a case, for docs/reliability.md."""

from dataclasses import dataclass

from tests.faults.screen import first_error
from tests.faults.world import World
from tests.fleet import Done


@dataclass
class Seen:
    """The results of a case.

    Args:
        code: exit code of the run with the fault.
        said: the sentence in which the run names the failure.
        again: the outcome of a second deploy, after the fault was lifted.
    """

    code: str = ""
    said: str = ""
    again: str = ""

    def first(self, done: Done) -> None:
        """Note the run with the fault."""
        self.code = "SIGKILL" if done.code == -9 else str(done.code)
        self.said = first_error(done)

    def second(self, world: World, *words: str) -> None:
        """Deploy once more, the fault lifted: the deploy succeeds, nothing is left to change, and no file is
        half-written."""
        done = world.fleet.provision("deploy", "--yes", "--lock-wait", "3m", *words)
        self.again = f"exit {done.code}"
        assert done.code == 0, done
        left = world.plan("--exit-code")
        self.again = f"exit {done.code}, plan {left.code}"
        assert left.code == 0, left
        assert world.half_written("gpu-01", "gpu-02", "lb-01") == []
