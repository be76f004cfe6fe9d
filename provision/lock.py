"""The lease that guards a host while it is changed. Pure: commands and the parser of their answers.

It expires by itself, counted on the host's own uptime, and ends with the boot, so neither a wrong clock nor a killed
controller can leave a host locked. A job of the host that still runs holds it too, but against other operators only:
who started it may come back, and attaches to it.
"""

import getpass
import socket

from provision.command import Answer, Run, sh
from provision.errors import HostError, LockedError

LEASE_SECONDS = 180.0  # at least; renewed with every exec of the run, and while a job is followed
RENEW_SECONDS = 60.0  # how often, while a job is followed
HELD = 75  # EX_TEMPFAIL
FOLDER = "/run/provision"

# $1 run, $2 who, $3 seconds, $4 folder. The state is one line: run, uptime at which it
# expires, who. The folder is in /run, which is gone at a boot.
ACQUIRE = r"""
folder=$4
umask 077
mkdir -p -m 0700 "$folder"
exec 9>"$folder/lock.guard"
flock 9
now=$(cut -d. -f1 /proc/uptime)
if [ -s "$folder/lock" ]; then
  read -r run until who <"$folder/lock"
  busy=no
  for pid in "$folder"/jobs/*/pid; do
    [ -f "$pid" ] && [ ! -f "${pid%pid}rc" ] && kill -0 "$(cat "$pid")" 2>/dev/null && busy=yes
  done
  if [ "$run" != "$1" ] && { [ "$until" -gt "$now" ] || { [ $busy = yes ] && [ "$who" != "$2" ]; }; }; then
    printf '%s, run %s, jobs running: %s, lease ends in %s s\n' "$who" "$run" $busy "$((until - now))" >&2
    exit 75
  fi
fi
printf '%s %s %s\n' "$1" "$((now + $3))" "$2" >"$folder/lock.new" || { rm -f "$folder/lock.new"; exit 1; }
mv "$folder/lock.new" "$folder/lock"
"""

RELEASE = r"""
folder=$2
[ -s "$folder/lock" ] || exit 0
read -r run until who <"$folder/lock"
[ "$run" = "$1" ] || exit 0
for rc in "$folder"/jobs/*/rc; do
  [ ! -f "$rc" ] || rm -rf -- "${rc%/rc}"
done
rm -f "$folder/lock"
"""


def who() -> str:
    """The operator and the machine, as shown to others."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def acquire(run_id: str, seconds: float = 0.0) -> Run:
    """Take the lock, or renew it.

    Args:
        run_id: the run that has it.
        seconds: how long what comes now may take.
    """
    lease = f"{max(LEASE_SECONDS, seconds + RENEW_SECONDS):.0f}"
    return sh(ACQUIRE, run_id, who(), lease, FOLDER, title="take the lock")


def release(run_id: str) -> Run:
    """Give the lock back, if it is this run's, and forget jobs that have ended."""
    return sh(RELEASE, run_id, FOLDER, title="release the lock")


def checked(answer: Answer) -> None:
    """Make sure that the lock was taken.

    Raises:
        LockedError: somebody else has it.
        HostError: it cannot be taken at all.
    """
    if answer.exit == HELD:
        raise LockedError(f"locked by {answer.error}", "wait for that run; the lock expires by itself")
    if answer.exit:
        said = f"{FOLDER}: {answer.error}" if answer.error else ""
        raise HostError("the lock could not be taken", "is there room in /run, and can it be written to?", stderr=said)
