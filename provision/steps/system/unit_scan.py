"""Reading systemd: one command shows every unit and unit file for our steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from provision.command import Answer, Run, Script, look
from provision.steps.base import UnreadableError
from provision.steps.system import file_scan
from provision.steps.system.file_scan import FileEntry

DIRECTORY = "/etc/systemd/system"
FOREIGN_UNITS = ("docker.service", "containerd.service")
"""Foreign units that steps ask for. Of our own units, every unit with a file is shown; the rest does not exist."""

ABSENT = {"LoadState": "not-found", "ActiveState": "inactive", "SubState": "dead", "UnitFileState": ""}

PROPERTIES = (
    "Id,Names,LoadState,LoadError,ActiveState,SubState,UnitFileState,NeedDaemonReload,FragmentPath,DropInPaths,Result,"
    "ExecStart"
)

SCRIPT = Script(
    "systemd/read-units",
    f"""
set -- {" ".join(FOREIGN_UNITS)} "$@"
for path in {DIRECTORY}/provision-*; do
  case $path in *.d|*@.*|*'*') ;; *) set -- "$@" "${{path##*/}}" ;; esac
done
systemctl show --no-pager --property={PROPERTIES} -- "$@" || exit
echo '# files'
depth=
set -- {DIRECTORY}/provision-* {DIRECTORY}/*.d/provision.conf
""",
)


@dataclass(frozen=True)
class Seen:
    """The answers of systemd and of its directory.

    Args:
        units: name -> property -> value; a unit that does not exist has `LoadState` `not-found`.
        files: path -> file, of our units.
    """

    units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def unit(self, name: str) -> Mapping[str, str]:
        """The properties of one unit.

        Raises:
            UnreadableError: systemd's answer has no such unit.
        """
        if name in self.units:
            return self.units[name]
        if name.startswith("provision-") and f"{DIRECTORY}/{name}" not in self.files:
            return ABSENT
        raise UnreadableError(f"systemctl show has no answer about {name}")


def command(name: str = "") -> Run:
    """The read-only command, the same for our units and the usual units, so that it is sent once.

    Args:
        name: a unit that a step asks for.
    """
    usual = not name or name in FOREIGN_UNITS or name.startswith("provision-")
    script = Script(SCRIPT.name, SCRIPT + file_scan.FIND)
    return look(script, *(() if usual else (name,)), title="show systemd units")


def parse(answer: Answer) -> Seen:
    """Parse the answer to the command.

    Raises:
        UnreadableError: systemd did not answer, or the answer is not whole.
    """
    if answer.exit:
        raise UnreadableError(answer.complaint or f"systemctl exited {answer.exit}")
    return _parse(answer.stdout)


@lru_cache(maxsize=64)  # every step of a host parses the same answer
def _parse(text: bytes) -> Seen:
    blocks, mark, files = text.partition(b"\n# files\n")
    if not mark:
        raise UnreadableError("the answer of systemctl ends early")
    units: dict[str, Mapping[str, str]] = {}
    for block in blocks.decode(errors="replace").split("\n\n"):
        unit = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        units.update(dict.fromkeys((unit.get("Id", ""), *unit.get("Names", "").split()), unit))
    return Seen(units, file_scan.parse_bytes(files))
