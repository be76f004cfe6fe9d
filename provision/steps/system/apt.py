"""Packages, by apt. The script waits for the holder of apt's lock, and removes no packages of others.

Sources: dpkg-query(1) for the states; apt-get(8); /proc/locks in proc(5). apt's own `DPkg::Lock::Timeout` does not
cover the lists' lock and prints nothing without a terminal: the script waits itself and leaves only the races to apt.
"""

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from provision.command import READ_TIMEOUT, Command, Run, Script, sh
from provision.steps.base import EVERY, Answer, Check, Fact, RefusalError, State, Step, UnreadableError, differing
from provision.steps.facts import HostFacts
from provision.steps.system.debian_version import compare

INSTALLED = "installed"
FORMAT = "${Package}\t${Architecture}\t${db:Status-Abbrev}\t${Version}\n"
JOB_TIMEOUT = 3600.0

# $1 seconds to wait for a lock, $2 packages that may be removed, $3 an option for downgrades or nothing; then the words
# to install. Exit codes of the script: 75 locked, 77 apt would remove a foreign package.
SCRIPT = Script(
    "apt/install",
    r"""
umask 022
limit=$1 removable=$2 downgrade=$3; shift 3
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 APT_LISTCHANGES_FRONTEND=none
work=$(mktemp -d); trap 'rm -rf -- "$work"' EXIT
up() { cut -d. -f1 /proc/uptime; }
begun=$(up)

holder() {
  for pid in $(sed -n 's/.* POSIX .* WRITE \([1-9][0-9]*\) .*/\1/p' /proc/locks | sort -u); do
    for fd in /proc/"$pid"/fd/*; do
      case $(readlink "$fd" 2>/dev/null || :) in
        /var/lib/dpkg/lock|/var/lib/dpkg/lock-frontend|/var/lib/apt/lists/lock|/var/cache/apt/archives/lock)
          printf 'process %s (%s)' "$pid" "$(tr '\0' ' ' </proc/"$pid"/cmdline 2>/dev/null | cut -c1-100)"
          return 0 ;;
      esac
    done
  done
  return 1
}
wait_for_lock() {
  while who=$(holder); do
    waited=$(($(up) - begun))
    if [ "$waited" -ge "$limit" ]; then
      echo "apt is locked by $who; gave up after $waited s" >&2
      exit 75
    fi
    echo "waiting: apt is locked by $who, $waited of at most $limit s"
    sleep 2
  done
}
apt() {
  apt-get -q -y -o DPkg::Lock::Timeout=60 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold --no-install-recommends "$@"
}
update() {
  echo 'apt-get update'
  { rc=0; apt update 2>&1 || rc=$?; echo "$rc" >"$work/rc"; } | tee "$work/update"
  [ "$(cat "$work/rc")" = 0 ]
}
fresh() { # whether the lists are from this hour and from these sources
  [ -n "$(find /var/lib/apt/lists -maxdepth 0 -mmin -60)" ] || return 1
  [ -z "$(find /etc/apt/sources.list /etc/apt/sources.list.d -newer /var/lib/apt/lists 2>/dev/null)" ]
}
simulate() { apt -s $downgrade install -- "$@" >"$work/plan" 2>"$work/why"; }
explain() {
  cat "$work/why" >&2 2>/dev/null || :
  if [ -s "$work/update" ] && [ "$(cat "$work/rc")" != 0 ]; then
    echo 'apt-get update had failed before:' >&2
    grep -E '^(E|W|Err)' "$work/update" >&2 || :
  fi
  for dir in / /usr /var/cache/apt/archives /var/lib/apt/lists /var/lib/dpkg; do
    free=$(df -Pk -- "$dir" | awk 'NR==2{print int($4/1024)}')
    if [ "$free" -lt 64 ]; then echo "full disk: $dir has $free MB left" >&2; fi
  done
}

wait_for_lock
if [ -n "$(dpkg --audit)" ]; then
  echo 'finishing an installation that was interrupted'
  dpkg --force-confdef --force-confold --configure -a || { explain; exit 1; }
fi
if ! { fresh && simulate "$@"; }; then
  update || { wait_for_lock; update; } || :
  simulate "$@" || { explain; exit 1; }
fi
install() {
  for name in $(sed -n 's/^Remv \([^ :]*\).*/\1/p' "$work/plan"); do
    case " $removable " in *" $name "*) ;; *) echo "apt would remove $name, which is not ours" >&2; exit 77 ;; esac
  done
  wait_for_lock
  apt $downgrade install -- "$@" 2>"$work/why"
}
if ! install "$@"; then
  # a repository that was renewed since our lists has no more what they say
  if [ -e "$work/update" ] || ! grep -q 'Failed to fetch' "$work/why"; then explain; exit 1; fi
  update || { explain; exit 1; }
  simulate "$@" || { explain; exit 1; }
  install "$@" || { explain; exit 1; }
fi
""",
)


@dataclass(frozen=True, kw_only=True)
class Packages(Step):
    """Packages to be installed.

    Args:
        name: the purpose of the packages.
        packages: package -> its version (`*` at the end stands for anything), or None for any version.
        releases: package -> codenames of its releases, for a package that some releases lack.
        replaces: packages that apt may remove in their favour.
        restarts: the service that a new version restarts, or empty.
        cuts: whether the restart cuts the streams of instances.
        costs: the cost of a first installation, in the operator's terms, or empty.
        downgrade: whether an older version may replace a newer version.
        lock_timeout: seconds to wait for another program that holds apt's lock.
        after: ids of steps that install packages behind our back.
    """

    prepares_host: ClassVar[bool] = True
    endangers_cards: ClassVar[bool] = True

    name: str
    packages: Mapping[str, str | None]
    releases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    replaces: tuple[str, ...] = ()
    restarts: str = ""
    cuts: bool = False
    costs: str = ""
    downgrade: bool = False
    lock_timeout: int = 600
    after: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """`packages:NAME`."""
        return f"packages:{self.name}"

    def fact(self) -> Fact:
        """Asks dpkg."""
        names = sorted({*self.packages, *self.replaces})
        words = ("dpkg-query", "--show", f"--showformat={FORMAT}", "--", *names)
        return Fact(Run(words, timeout=READ_TIMEOUT, title=f"look at packages for {self.name}"), self._parse)

    def want(self, facts: HostFacts, have: State) -> State:
        """Every package of this release. Refuses packages on hold, and downgrades without permission."""
        wanted = {
            name: version or INSTALLED
            for name, version in self.packages.items()
            if name not in self.releases or facts.codename in self.releases[name]
        }
        for name, version in differing(have, wanted):
            self._refuse(name, version, have or {})
        if missing := [name for name, _ in differing(have, wanted) if not (have or {}).get(name)]:
            self._refuse_replaced(missing[0], have or {})
        return wanted

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """One run of apt, as a job of the host. A package with None in `want` is removed."""
        present = have or {}
        wanted = {name: version for name, version in (want or {}).items() if name in self.packages}
        specs = [spec for name, version in wanted.items() for spec in _spec(name, version, present.get(name))]
        older = any(_older(version, present.get("versions", {}).get(name)) for name, version in wanted.items())
        may_remove = " ".join((*self.replaces, *(name for name, version in wanted.items() if version is None)))
        options = (str(self.lock_timeout), may_remove, "--allow-downgrades" if older else "")
        changing = [
            spec for name, version in differing(have, wanted) for spec in _spec(name, version, present.get(name))
        ]
        title = f"apt-get install {' '.join(changing)}"
        return [sh(SCRIPT, *options, *specs, title=title, timeout=JOB_TIMEOUT, job=True, progress=progress)]

    def why(self, have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
        """The missing packages, and the packages of the wrong version."""
        differs = differing(have, want)
        missing = [name for name, _ in differs if not have.get(name)]
        others = [f"other version of {name}" for name, _ in differs if name not in missing]
        return ", ".join([*([f"missing: {' '.join(missing)}"] if missing else []), *others])

    def diff(self, have: State, want: State) -> Sequence[str]:
        """The versions of each package; the reason names the packages that are missing."""
        present = have or {}
        wanted = [(name, version) for name, version in differing(have, want) if version is not None]
        return [f"{name}: {present.get(name) or 'missing'} -> {version}" for name, version in wanted]

    def disrupts(self, have: State, want: State) -> frozenset[str]:
        """Every instance, if a service restarts that their streams need."""
        replaced, newer = self._replaced(have, want)
        return EVERY if self.cuts and (replaced or newer) else frozenset()

    def _replaced(self, have: State, want: State) -> tuple[list[str], bool]:
        """The packages that go, and whether the remaining packages get a new version."""
        there = (have or {}).get("versions", {})
        newer = any(name in there for name, _ in differing(have, want))
        return [name for name in self.replaces if name in there], newer

    def irrevocable(self, before: State, after: State) -> str:
        """Packages stay: further software may need them by now, and the earlier versions may be nowhere any more."""
        return "packages stay as they are"

    def impact(self, have: State, want: State) -> str:
        """The replaced packages, and the service that a new version restarts."""
        replaced, newer = self._replaced(have, want)
        parts = [f"replaces {', '.join(replaced)}"] if replaced else []
        if self.restarts and (replaced or newer):
            parts.append(f"restarts {self.restarts}")
        if self.costs and not newer:
            parts.append(self.costs)
        return "; ".join(parts)

    def check(self, live: Any) -> Iterator[Check]:
        """Dpkg has the packages whole, in the wanted versions."""
        names = sorted(set(self.packages) - set(self.releases))
        result = live.run(f"dpkg-query --show --showformat=%s -- {' '.join(['%s'] * len(names))}", FORMAT, *names)
        installed = self._parse(Answer(result.rc, result.stdout.encode(), result.stderr.encode())) or {}
        for name in names:
            yield Check(name, installed.get(name), self.packages[name] or INSTALLED)

    def _refuse(self, name: str, version: str, have: Mapping[str, Any]) -> None:
        there = have.get("versions", {}).get(name)
        if name in have.get("held", ()):
            raise RefusalError(
                f"{name} is held at {there} (apt-mark hold), and {version} is wanted: type on the host: sudo apt-mark"
                f" unhold {name}"
            )
        if not self.downgrade and _older(version, there):
            raise RefusalError(f"{name} is {there}, newer than {version}: set allow_downgrade to go back")

    def _refuse_replaced(self, wanted: str, have: Mapping[str, Any]) -> None:
        if held := sorted(set(self.replaces).intersection(have.get("held", ()))):
            raise RefusalError(
                f"{', '.join(held)} is held (apt-mark hold), and {wanted} replaces it: type on the host: sudo apt-mark"
                f" unhold {' '.join(held)}"
            )

    def _parse(self, answer: Answer) -> State:
        if answer.exit not in (0, 1):
            raise UnreadableError(answer.complaint or f"dpkg-query exited {answer.exit}")
        errors = [line for line in answer.complaint.splitlines() if "no packages found matching" not in line]
        if answer.exit == 1 and errors:
            raise UnreadableError(errors[0])
        rows = [line.split("\t") for line in answer.text.splitlines() if line.count("\t") == 3]
        known = {name: (status, version) for name, _, status, version in rows if status[1:2] not in ("n", "c", "")}
        return {
            **{name: _state(known.get(name), pin) for name, pin in self.packages.items()},
            "versions": {name: version for name, (_, version) in known.items()},
            "held": sorted(name for name, (status, _) in known.items() if status.startswith("h")),
        }


def _state(row: tuple[str, str] | None, pin: str | None) -> str | None:
    """The version in the state. An allowed version becomes the pin itself, so that equal means as wanted."""
    if row is None:
        return None
    status, version = row
    if status[1:2] != "i":
        return "half-installed"
    if pin is None:
        return INSTALLED
    return pin if fnmatch.fnmatchcase(version, pin) else version


def _spec(name: str, version: str | None, have: str | None) -> list[str]:
    """The word for apt-get. A package in its wanted state is named only where its version matters."""
    if version is None:
        return [f"{name}-"] if have else []
    if version == INSTALLED:
        return [] if have == INSTALLED else [name]
    return [f"{name}={version}"]


def _older(version: str | None, than: str | None) -> bool:
    if version is None or than is None or version == INSTALLED or fnmatch.fnmatchcase(than, version):
        return False
    return compare(version.rstrip("*"), than) < 0


PROGRESS = ("waiting:", "Get:", "Unpacking ", "Setting up ", "Removing ", "apt-get update", "finishing ")


def progress(line: str) -> str | None:
    """The lines of apt that an operator wants to see."""
    return line.strip() if line.startswith(PROGRESS) else None
