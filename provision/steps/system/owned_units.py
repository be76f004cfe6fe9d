"""The finders of our units, and of our drop-ins for foreign units."""

from dataclasses import dataclass

from provision.steps.base import Answer, Fact, Owned, State, Step
from provision.steps.system import unit_scan
from provision.steps.system.systemd import DropIn, Unit, unit_file


@dataclass(frozen=True, kw_only=True)
class OwnedUnits(Owned):
    """Finds our unit files.

    Args:
        prefix: how their names begin.
    """

    prefix: str = "provision-"

    def fact(self) -> Fact:
        """Reads the command that all units share."""
        return Fact(unit_scan.command(), self._parse)

    def step(self, step_id: str) -> Step:
        """The unit of that name, to be stopped and removed."""
        return Unit(name=step_id.partition(":")[2], content=b"")

    def _parse(self, answer: Answer) -> State:
        seen = unit_scan.parse(answer)
        folder = unit_scan.DIRECTORY + "/"
        names = [path.removeprefix(folder) for path, file in seen.files.items() if file.kind != "directory"]
        ours = [name for name in names if "/" not in name and name.startswith(self.prefix)]
        return {f"unit:{name}": unit_file(seen, folder + name, name) for name in ours}


@dataclass(frozen=True, kw_only=True)
class OwnedDropIns(Owned):
    """Finds our additions to foreign units.

    Args:
        name: the unit to which a role adds, such as `docker.service`.
    """

    name: str

    def fact(self) -> Fact:
        """Reads the command that all units share."""
        return Fact(unit_scan.command(self.name), self._parse)

    def step(self, step_id: str) -> Step:
        """The addition to that unit, to be removed."""
        return DropIn(name=step_id.partition(":")[2], content=b"")

    def _parse(self, answer: Answer) -> State:
        drop_in = DropIn(name=self.name, content=b"")
        state = unit_file(unit_scan.parse(answer), drop_in.path, self.name)
        return {} if state is None else {drop_in.id: state}
