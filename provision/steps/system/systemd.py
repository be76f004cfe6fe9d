"""Our units, our drop-ins for foreign units, and services."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from provision.command import Command, Put, Script, run, sh
from provision.steps.base import Check, Fact, PutBack, RefusalError, State, Step, differing
from provision.steps.facts import HostFacts
from provision.steps.system import unit_scan
from provision.steps.system.file import FILE_WORDS, change_file, diff_file
from provision.steps.system.file_scan import Content
from provision.steps.wording import Vocabulary, Words

BY_TIMER = "-check.service"
"""End of the name of a service that a timer of the same name starts."""
RELOAD = run("systemctl", "daemon-reload")
# $1 unit, $2 path of its file or of a drop-in, $3 the new file, $4 folder of units. Before the new file is put in place
# systemd reads the file alone, added to a plain service of ours: dependencies and programs may come later.
PLACE = Script(
    "systemd/place",
    r"""
work=$(mktemp -d)
trap 'rm -rf -- "$work" "$3"' EXIT
file=$work/${2#"$4/"}
if [ "$file" != "$work/$1" ]; then
  mkdir -- "${file%/*}"
  printf '[Service]\nExecStart=/bin/true\n' >"$work/$1"
fi
cp -- "$3" "$file"
SYSTEMD_UNIT_PATH=$work SYSTEMD_LOG_TARGET=console SYSTEMD_LOG_LEVEL=warning \
  systemd-analyze verify --man=no "$work/$1" >"$work/said" 2>&1 </dev/null || :
if grep -E "^($file:|Unit $1 |$1: (.* Refusing|Command [^/].* is not executable))" "$work/said" >"$work/wrong"; then
  sed "s|^$file:|$2:|" "$work/wrong" >&2
  exit 1
fi
mv -fT -- "$3" "$2"
""",
)
# Where a service does not start, systemctl alone prints only the advice to look elsewhere.
START = Script(
    "systemd/start",
    """
systemctl start -- "$1" || { code=$?; systemctl status --no-pager --full --lines=15 -- "$1" >&2 || :; exit $code; }
""",
)


@dataclass(frozen=True, kw_only=True)
class Unit(Step):
    """Our unit file, loaded by systemd.

    Args:
        name: `provision-*.service` or another type of unit.
        content: the file.
    """

    prepares_host: ClassVar[bool] = True
    endangers_cards: ClassVar[bool] = True
    volatile: ClassVar[frozenset[str]] = frozenset({"loaded"})
    words: ClassVar[Vocabulary] = {
        **FILE_WORDS,
        "loaded": Words("systemd has not read the file"),
    }

    name: str
    content: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """`unit:NAME`."""
        return f"unit:{self.name}"

    @property
    def path(self) -> str:
        """Path of the file."""
        return f"{unit_scan.DIRECTORY}/{self.name}"

    @property
    def manages(self) -> str:
        """The unit to ask whether systemd has read this file."""
        return self.name

    def fact(self) -> Fact:
        """Reads the file, and whether systemd has loaded it."""
        return Fact(
            unit_scan.command(self.manages), lambda answer: unit_file(unit_scan.parse(answer), self.path, self.manages)
        )

    def want(self, facts: HostFacts, have: State) -> State:
        """The file, loaded. Refuses a unit whose command an operator's drop-in replaces."""
        if have is not None and have.get("replaced_by"):
            raise RefusalError(
                f"{have['replaced_by']} replaces the command of {self.name}, which is provision's: remove that file, "
                f"then run systemctl daemon-reload"
            )
        return {"sha256": Content(self.content), "mode": "0644", "owner": "root:root", "loaded": True}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Writes or removes the file and has systemd reload; stops a unit before removing its file."""
        if want is None:
            return [*self._stop(), *change_file(self.path, _as_file(have), None), RELOAD]
        stale = [key for key, _ in differing(have, want) if key in _FILE]
        written = change_file(self.path, _as_file(have), _as_file(want)) if stale else []
        return [*(command for each in written for command in self._checked(each)), RELOAD]

    def _checked(self, command: Command) -> list[Command]:
        """Write the new file beside the old file, check it, and put it in place."""
        if not isinstance(command, Put):
            return [command]
        folder, _, file = self.path.rpartition("/")
        new = f"{folder}/.{file}.provision-new"  # hidden: a leftover of a crash is no unit
        words = (self.name, self.path, new, unit_scan.DIRECTORY)
        return [replace(command, path=new), sh(PLACE, *words, title=f"check {new} and put it in place")]

    def _stop(self) -> list[Command]:
        return [
            run("systemctl", "disable", "--now", "--", self.name),
            run("systemctl", "reset-failed", "--", self.name, ok=(0, 1)),
        ]

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """The file, loaded."""
        return {key: True if key == "loaded" else value for key, value in past.items() if key != "replaced_by"}

    def brings(self) -> Sequence[Step]:
        """Its service or timer. A service that a timer starts ends by itself."""
        if self.name.endswith(".timer"):
            return (Timer(name=self.name.removesuffix(".timer")),)
        is_service = self.name.endswith(".service") and not self.name.endswith(BY_TIMER)
        return (Service(name=self.name.removesuffix(".service")),) if is_service else ()

    def diff(self, have: State, want: State) -> Sequence[str]:
        """A unified diff of the file."""
        unread = have is not None and want is not None and have["sha256"] == want["sha256"] and not have["loaded"]
        return ["systemd has not read the file yet"] if unread else diff_file(self.path, _as_file(have), _as_file(want))

    def check(self, live: Any) -> Iterator[Check]:
        """Systemd has loaded the unit from this file, without an error."""
        shown, sha256 = self._live(live, "LoadState,NeedDaemonReload,FragmentPath")
        yield Check("loaded", shown.get("LoadState"), "loaded")
        yield Check("from", shown.get("FragmentPath"), self.path)
        yield Check("systemd has read the file", shown.get("NeedDaemonReload") == "no", True)
        yield Check("sha256", sha256, str(Content(self.content)))

    def _live(self, live: Any, keys: str) -> tuple[dict[str, str], str]:
        """Systemd's properties of the unit, and the hash of the file."""
        words = f"sha256sum <%s; systemctl show --property={keys} -- %s"
        lines = live.run(words, self.path, self.manages).stdout.splitlines()
        shown = dict(line.split("=", 1) for line in lines if "=" in line)
        return shown, next((line[:64] for line in lines if line.endswith(" -")), "")


@dataclass(frozen=True, kw_only=True)
class DropIn(Unit):
    """Our addition to a foreign unit: `NAME.d/provision.conf`.

    Args:
        name: the service, such as `docker.service`. It may be missing still.
        content: the file.
    """

    @property
    def id(self) -> str:
        """`drop_in:NAME`."""
        return f"drop_in:{self.name}"

    @property
    def path(self) -> str:
        """Path of the file."""
        return f"{unit_scan.DIRECTORY}/{self.name}.d/provision.conf"

    def brings(self) -> Sequence[Step]:
        """Nothing: the service is not ours."""
        return ()

    def _stop(self) -> list[Command]:
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """Systemd applies this file to the unit."""
        shown, sha256 = self._live(live, "DropInPaths,NeedDaemonReload")
        yield Check("applied", self.path in shown.get("DropInPaths", "").split(), True)
        yield Check("systemd has read the file", shown.get("NeedDaemonReload") == "no", True)
        yield Check("sha256", sha256, str(Content(self.content)))


def unit_file(seen: unit_scan.Seen, path: str, name: str) -> State:
    """Return the state of a unit file. Systemd's load state of the unit counts only where the whole unit is ours.

    Args:
        seen: the files and units as read on the host.
        path: path of the unit file or of the drop-in.
        name: name of the unit.
    """
    file, unit = seen.files.get(path), seen.unit(name)
    if file is None:
        return None
    whole = not path.endswith(name) or unit["LoadState"] == "loaded"
    return {
        "sha256": file.sha256,
        "mode": file.mode,
        "owner": file.owner,
        "loaded": whole and unit["NeedDaemonReload"] == "no",
        "replaced_by": _replaced_by(file.sha256, unit) if path.endswith(name) else "",
    }


def _replaced_by(content: str, unit: Mapping[str, str]) -> str:
    """The drop-ins of a unit whose running command is not the command of the unit's own file; else empty.

    Until systemd has read the present file, the unit's command proves nothing about a drop-in.
    """
    if not isinstance(content, Content) or not unit.get("DropInPaths") or not unit.get("ExecStart"):
        return ""
    if unit["NeedDaemonReload"] != "no":
        return ""
    command = unit["ExecStart"].partition("argv[]=")[2].partition(" ; ")[0]
    own = [
        line.partition("=")[2] for line in content.data.decode(errors="replace").splitlines() if _COMMAND.match(line)
    ]
    return "" if command in own else unit["DropInPaths"]


_COMMAND = re.compile("ExecStart=.")
_FILE = ("sha256", "mode", "owner")


def _as_file(state: State) -> State:
    return None if state is None else {"kind": "file", **{key: state[key] for key in _FILE}}


@dataclass(frozen=True, kw_only=True)
class Service(Step):
    """A service to run now and after a boot.

    Args:
        name: the service, without `.service`.
        enabled: whether the service starts at boot; a unit without an [Install] section is left alone.
        running: whether the service runs now.
        after: ids of steps that start or stop the service behind our back.
    """

    endangers_cards: ClassVar[bool] = True
    volatile: ClassVar[frozenset[str]] = frozenset({"running", "said"})
    is_health: ClassVar[bool] = True
    words: ClassVar[Vocabulary] = {
        "running": Words("stopped", otherwise="runs"),
        "enabled": Words("does not start at boot", otherwise="starts at boot"),
        "masked": Words("masked"),
    }

    name: str
    enabled: bool = True
    running: bool = True
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`service:NAME`."""
        return f"service:{self.name}"

    @property
    def unit(self) -> str:
        """The unit's full name."""
        return f"{self.name}.service"

    def fact(self) -> Fact:
        """Reads systemd's properties of the unit."""
        return Fact(unit_scan.command(self.unit), lambda answer: service_state(unit_scan.parse(answer), self.unit))

    def want(self, facts: HostFacts, have: State) -> State:
        """Running, enabled, not masked."""
        enabled = None if have is not None and have["enabled"] is None else self.enabled
        return {"enabled": enabled, "running": self.running, "masked": False}

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """Enables or disables, starts or stops."""
        return change_service(self.unit, have, want)

    def endangers(self, have: State, want: State) -> bool:
        """True where the service is enabled, disabled or unmasked: systemctl then has systemd reload."""
        return want is not None and bool({"enabled", "masked"} & dict(differing(have, want)).keys())

    def restore(self, facts: HostFacts, have: State, past: Mapping[str, Any]) -> State:
        """Running: a rollback stops no service because it was found dead."""
        return self.want(facts, have)

    def irrevocable(self, before: State, after: State) -> str:
        """A service that did not exist goes with its unit."""
        return "" if before else "it goes with its unit"

    def follows(self, put_back: PutBack) -> Step | None:
        """The service itself, unless its unit goes."""
        return None if f"unit:{self.unit}" in put_back.removed else self

    def impact(self, have: State, want: State) -> str:
        """Whether the service starts or stops."""
        was, shall = ((state or {}).get("running", False) for state in (have, want))
        return "" if was == shall else f"{'starts' if shall else 'stops'} {self.name}"

    def check(self, live: Any) -> Iterator[Check]:
        """Systemd calls the service active, and enabled at boot."""
        properties = live.run("systemctl show --property=ActiveState,UnitFileState -- %s", self.unit).stdout
        shown = dict(line.split("=", 1) for line in properties.splitlines() if "=" in line)
        yield Check("running", shown.get("ActiveState") == "active", self.running)
        if shown.get("UnitFileState") not in FIXED:
            yield Check("enabled at boot", shown.get("UnitFileState") == "enabled", self.enabled)


@dataclass(frozen=True, kw_only=True)
class Timer(Service):
    """A timer that waits now and after a boot. Its service has a name that ends in `BY_TIMER`.

    Args:
        name: the timer, without `.timer`.
    """

    @property
    def id(self) -> str:
        """`timer:NAME`."""
        return f"timer:{self.name}"

    @property
    def unit(self) -> str:
        """The unit's full name."""
        return f"{self.name}.timer"


FIXED = ("static", "indirect", "generated", "alias", "transient", "linked")  # nothing to enable


def service_state(seen: unit_scan.Seen, name: str) -> State:
    """The state of a service; None where systemd knows no such unit."""
    unit = seen.unit(name)
    if unit["LoadState"] == "not-found":
        return None
    file_state = unit["UnitFileState"]
    return {
        "enabled": None if file_state in FIXED else file_state == "enabled",
        "running": unit["ActiveState"] in ("active", "reloading"),
        "masked": file_state.startswith("masked"),
        "said": f"{unit['ActiveState']} ({unit['SubState']})",
    }


def change_service(unit: str, have: State, want: State) -> list[Command]:
    """Commands from any state of a service to any other; none where the service is to be absent.

    Args:
        unit: full name.
        have: the state found.
        want: the state wanted.
    """
    if want is None:
        return []
    changes = dict(differing(have, want))
    commands: list[Command] = []
    if changes.get("masked") is False and have is not None:
        commands.append(run("systemctl", "unmask", "--", unit))
    if changes.get("enabled") is not None:
        commands.append(run("systemctl", "enable" if changes["enabled"] else "disable", "--", unit))
    if changes.get("running") is True:  # systemd would refuse another start of a service that failed too often
        commands += [run("systemctl", "reset-failed", "--", unit, ok=(0, 1))]
        commands += [sh(START, unit, title=f"systemctl start -- {unit}")]
    elif changes.get("running") is False and have is not None:
        commands.append(run("systemctl", "stop", "--", unit))
    if changes.get("masked"):
        commands.append(run("systemctl", "mask", "--", unit))
    return commands
