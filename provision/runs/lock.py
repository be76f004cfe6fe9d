"""The lock that guards a host during a change. Pure: commands and their parsers.

A run's lock is a lease: it expires by itself, counted in the host's uptime, and ends with a reboot, so neither a wrong
clock nor a killed controller can leave a host locked. A running job of the host holds the lock too, but only against
other operators: the operator of the job may come back and attach. A lock by hand does not expire, and outlives
reboots: an operator who works on the machine reboots it.
"""

import functools
import getpass
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from provision.command import Answer, Run, Script, sh
from provision.errors import FactError, HostError, LockedError
from provision.ssh.host_paths import HostPaths

LEASE_SECONDS = 180.0  # at least; renewed with every exec of the run, and by its keeper
RENEW_SECONDS = 60.0  # between two renewals by the keeper
EXIT_HELD = 75  # EX_TEMPFAIL
BY_HAND = "by-hand"  # in place of a run's id, and in place of the uptime at which a lease ends
LONGEST_REASON = 200  # characters

# Reads the lock into run, until, since, who, why, now and busy. $folder is in /run and gone at a boot, so its times are
# uptimes; $by_hand outlives a boot, so its times are of the clock. A lock is two lines: run, until, since, who; and
# why. A damaged lock by hand counts too: only people may take it away.
READ = r"""
now=$(cut -d. -f1 /proc/uptime)
lock=$folder/lock
[ ! -s "$by_hand" ] || lock=$by_hand now=$(date +%s)
run='' until=0 since=$now who='' why='' busy=no
if [ -s "$lock" ]; then
  { read -r run until since who; read -r why; } <"$lock" || :
  case $until in '' | *[!0-9]*) until=0 ;; esac
  case $since in '' | *[!0-9]*) since=$now ;; esac
fi
[ "$lock" != "$by_hand" ] || run=${run:-by-hand} until=by-hand
for pid in "$folder"/jobs/*/pid; do
  [ -f "$pid" ] && [ ! -f "${pid%pid}rc" ] && kill -0 "$(cat "$pid")" 2>/dev/null && busy=yes
done
"""

# $1 run, $2 who, $3 seconds of the lease or `by-hand`, $4 folder, $5 lock by hand, $6 why, $7 a dead run of this
# operator, or nothing: another operator may have resumed the run since. Prints the path of a failed write.
ACQUIRE = Script(
    "lock/acquire",
    f"""
folder=$4 by_hand=$5
failed() {{ rm -f "$lock.new"; printf '%s\\n' "${{lock%/*}}"; exit 1; }}
umask 077
mkdir -p -m 0700 "$folder"
exec 9>"$folder/lock.guard"
flock 9
{READ}
held=no
if [ "$run" != "$1" ] && [ -n "$run" ]; then
  [ "$run" != "$7" ] || [ "$who" != "$2" ] || [ "$until" = {BY_HAND} ] || until=0
  if [ "$until" = {BY_HAND} ] || [ "$until" -gt "$now" ]; then held=yes
  elif [ $busy = yes ] && [ "$who" != "$2" ]; then held=yes
  fi
fi
if [ $held = yes ]; then
  printf '%s %s %s %s %s %s\\n%s\\n' "$run" "$until" "$since" "$now" $busy "$who" "$why" >&2
  exit {EXIT_HELD}
fi
if [ "$3" = {BY_HAND} ]; then
  lock=$by_hand until=$3
  [ "$run" = "$1" ] || since=$(date +%s)
  install -d -m 0700 -- "${{lock%/*}}" || failed
else
  until=$((now + $3))
  [ "$run" = "$1" ] || since=$now
fi
printf '%s %s %s %s\\n%s\\n' "$1" "$until" "$since" "$2" "$6" >"$lock.new" || failed
[ "$until" != {BY_HAND} ] || sync -- "$lock.new" || failed
mv "$lock.new" "$lock" || failed
[ "$until" != {BY_HAND} ] || {{ sync -- "${{lock%/*}}"; rm -f "$folder/lock"; }}
""",
)

# While a job is running, the lock stays as an expired lease: see ACQUIRE.
RELEASE = Script(
    "lock/release",
    f"""
folder=$2 by_hand=$3
[ -s "$folder/lock" ] || exit 0
umask 077
exec 9>"$folder/lock.guard"
flock 9
{READ}
[ "$run" = "$1" ] || exit 0
for rc in "$folder"/jobs/*/rc; do
  [ ! -f "$rc" ] || rm -rf -- "${{rc%/rc}}"
done
[ $busy = no ] || {{
  printf '%s %s %s %s\\n%s\\n' "$run" "$now" "$since" "$who" "$why" >"$folder/lock.new"
  mv "$folder/lock.new" "$folder/lock"
  exit 0
}}
rm -f "$folder/lock"
""",
)

STATUS = Script(
    "lock/read",
    f"""
folder=$1 by_hand=$2
{READ}
[ -z "$run" ] || printf '%s %s %s %s %s %s\\n%s\\n' "$run" "$until" "$since" "$now" $busy "$who" "$why"
""",
)


# $1 folder, $2 lock by hand, $3 `yes` to take away the lock of a live run too, $4 who, $5 a dead run of this operator,
# or nothing: its lock goes too, but not while a job of the host is running. Prints the former lock.
BREAK = Script(
    "lock/break",
    f"""
folder=$1 by_hand=$2
[ -s "$folder/lock" ] || [ -s "$by_hand" ] || exit 0
umask 077
mkdir -p -m 0700 "$folder"
exec 9>"$folder/lock.guard"
flock 9
{READ}
[ -n "$run" ] || exit 0
[ "$run" != "$5" ] || [ "$who" != "$4" ] || [ "$until" = {BY_HAND} ] || until=$now
if [ "$until" != {BY_HAND} ] && [ "$3" != yes ] && {{ [ "$until" -gt "$now" ] || [ $busy = yes ]; }}; then
  printf '%s %s %s %s %s %s\\n%s\\n' "$run" "$until" "$since" "$now" $busy "$who" "$why" >&2
  exit {EXIT_HELD}
fi
rm -f "$folder/lock" "$by_hand" || exit
printf '%s %s %s %s %s %s\\n%s\\n' "$run" "$until" "$since" "$now" $busy "$who" "$why"
""",
)


@dataclass(frozen=True)
class Holder:
    """The holder of a host's lock.

    Args:
        run: id of the run; empty for a lock by hand.
        who: operator and machine.
        seconds: age of the lock.
        left: seconds until the lease ends, below zero after the end; None for a lock by hand.
        busy: whether a job of the host is still running.
        why: the reason of a lock by hand.
    """

    run: str
    who: str
    seconds: int
    left: int | None
    busy: bool
    why: str

    @property
    def is_over(self) -> bool:
        """Whether the next run may take the lock."""
        return self.left is not None and self.left <= 0 and not self.busy

    def __str__(self) -> str:
        since = f"for {_age(self.seconds)}"
        if self.left is None:
            return f"{self.who} by hand {since}: {self.why}"
        lease = f"lease ends in {_age(self.left)}" if self.left > 0 else "its lease has ended"
        jobs = ", a job of that run still runs here" if self.busy else ""
        return f"{self.who}, run {self.run}, {since}, {lease}{jobs}"


def _age(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min" if seconds < 7200 else f"{seconds // 3600} h"


def name_of(user: Callable[[], str]) -> str:
    """Return the operator and the machine in one word: blanks separate the words of a lock.

    Args:
        user: returns the operator's name; raises KeyError or OSError for a user id without a name, as in containers.
    """
    try:
        name = user()
    except (KeyError, OSError):
        name = f"uid-{os.getuid()}"
    return "".join(f"{name}@{socket.gethostname()}".split())


@functools.cache
def who() -> str:
    """Return the operator and the machine, as shown to others. Constant during a run, even if the machine is
    renamed."""
    return name_of(getpass.getuser)


@dataclass(frozen=True)
class HostLock:
    """The commands for the lock of a host, and the parsers of their answers.

    Args:
        paths: the folders of runs on the host.
        who: operator and machine, as shown to others.
        lease: seconds of the shortest lease.
        renewal: seconds between two renewals of a lease by the keeper of the run.
    """

    paths: HostPaths = field(default_factory=HostPaths)
    who: str = field(default_factory=lambda: who())
    lease: float = LEASE_SECONDS
    renewal: float = RENEW_SECONDS

    @property
    def _folders(self) -> tuple[str, str]:
        return self.paths.run, self.paths.lock_by_hand

    def acquire(self, run_id: str, seconds: float = 0.0, dead: str = "") -> Run:
        """Return the command that takes or renews the lock.

        Args:
            run_id: the run of the lock.
            seconds: how long the next commands may take.
            dead: id of a dead run whose lock to take over, or empty.
        """
        lease = f"{max(self.lease, seconds + self.renewal):.0f}"
        return sh(ACQUIRE, run_id, self.who, lease, *self._folders, "", dead, title="take the lock")

    def acquire_by_hand(self, why: str) -> Run:
        """Return the command that takes the lock until an operator releases it, across boots.

        Args:
            why: the reason shown to operators; one line.
        """
        words = (f"{BY_HAND}-{self.who}", self.who, BY_HAND)
        return sh(ACQUIRE, *words, *self._folders, why, "", title="take the lock")

    def release(self, run_id: str) -> Run:
        """Return the command that gives this run's lock back, and forgets jobs that have ended."""
        return sh(RELEASE, run_id, *self._folders, title="release the lock")

    def status(self) -> Run:
        """Return the command that reads the lock. Read only."""
        return sh(STATUS, *self._folders, title="read the lock")

    def take_away(self, *, force: bool, dead: str = "") -> Run:
        """Return the command that takes away a lock by hand, or an expired lease.

        Args:
            force: take away the lock of a run that may still be at work too.
            dead: id of a dead run, or empty; its lock goes, unless a job of the run is running.
        """
        words = ("yes" if force else "no", self.who, dead)
        return sh(BREAK, *self._folders, *words, title="take the lock away")

    def holder_of(self, answer: Answer) -> Holder | None:
        """Parse the holder from the answer to `status` or `take_away`; None if there was no lock.

        Raises:
            LockedError: a run has the lock, and `force` was not given.
            FactError: the answer has no lock in it.
        """
        if answer.exit == EXIT_HELD:
            holder = self._parse(answer.error)
            over = holder.left is not None and holder.left <= 0
            hint = (
                "wait until that job has ended"
                if over
                else "wait for that run; the lock of a dead run expires by itself"
            )
            hint += ". If that run is certainly dead, use --force"
            raise LockedError(f"locked by {holder}", hint, run=holder.run)
        if answer.exit:
            raise FactError("the lock cannot be read", exit_status=answer.exit, stderr=answer.error)
        return self._parse(answer.text) if answer.text.strip() else None

    def checked(self, answer: Answer) -> None:
        """Check that the lock was taken.

        Raises:
            LockedError: another run or an operator has the lock.
            HostError: the host cannot write the lock.
        """
        if answer.exit == EXIT_HELD:
            holder = self._parse(answer.error)
            hint = "wait for that run, as --lock-wait 5m does; the lock of a dead run expires by itself"
            hint = "ask the operator; `provision lock release` takes the lock away" if holder.left is None else hint
            raise LockedError(f"locked by {holder}", hint, run=holder.run)
        if answer.exit:
            state, run = self.paths.state, self.paths.run
            place = state if answer.text.strip() == state else run
            evidence = f"{place}: {answer.error}" if answer.error else ""
            hint = f"is there room in {place} (see `df -h {place}` on the host), and is the folder writable?"
            raise HostError("the lock could not be taken", hint, stderr=evidence)

    def _parse(self, text: str) -> Holder:
        first, _, why = text.strip("\n").partition("\n")
        match = re.fullmatch(r"(\S+) (\d{1,18}|by-hand) (\d{1,18}) (\d{1,18}) (yes|no) ?(.*)", first)
        if match is None:
            where = f"look at {self.paths.run}/lock and {self.paths.lock_by_hand}"
            raise FactError("the lock is not one of ours", where, stderr=text[:300])
        run, until, since, now, busy, name = match.groups()
        by_hand = until == BY_HAND
        left = None if by_hand else int(until) - int(now)
        return Holder("" if by_hand else run, name, max(0, int(now) - int(since)), left, busy == "yes", why.strip())
