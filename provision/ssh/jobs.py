"""Long commands as jobs of the host: detached, with a log and an exit code, followed over SSH. Pure but for `on_line`.

A pull or a load ends when its client goes away (docs/facts.md#ollama-pull, docs/facts.md#ollama-load), so the client
is on the host. The folder of a job is in /run and gone at a boot, like the job itself, so that a process id in the
folder cannot mean another process.
"""

import base64
import hashlib
import shlex
from collections.abc import Callable

from provision.command import Answer, Run
from provision.ssh import host_paths, script
from provision.ssh.time_limits import stretched

RECONNECTS = 6
TAIL = 64 * 1024  # bytes at the end of a log that are kept as evidence

# $1 folder, $2 seconds, $3 bytes of log seen, $4 mark, $5 token of the follower; then the words. Standard input is the
# job's. The exit code is written by rename: either absent or complete. The token identifies the follower, so that after
# a lost connection the result of this job is found, and not the result of an equal job that ended before. The folder
# stays: a follower with a lost connection may still be running, and must not delete the folder of its successor.
FOLLOW = r"""
d=$1; limit=$2; seen=$3; mark=$4; token=$5; shift 5
umask 077
if [ -f "$d/pid" ] && [ ! -f "$d/rc" ] && kill -0 "$(cat "$d/pid")" 2>/dev/null; then echo "$token" >"$d/token"
elif [ -f "$d/rc" ] && [ "$(cat "$d/token")" = "$token" ]; then :
else
  rm -rf -- "$d"; mkdir -p -- "$d"; : >"$d/log"; echo "$token" >"$d/token"
  cat >"$d/stdin" || { # half a script must never run
    rm -rf -- "$d"; printf '\n%s begin\nno room for a job in %s\n%s end 1\n' "$mark" "$d" "$mark"; exit
  }
  setsid sh -c 'd=$1; limit=$2; shift 2
    timeout -k 5 "$limit" "$@" <"$d/stdin" >"$d/log" 2>&1; echo $? >"$d/rc.new"; mv "$d/rc.new" "$d/rc"
  ' job "$d" "$limit" "$@" </dev/null >/dev/null 2>&1 &
  echo $! >"$d/pid"
fi
printf '\n%s begin\n' "$mark"
tail -c "+$((seen + 1))" -s 0.2 -f --pid="$(cat "$d/pid")" "$d/log" 2>/dev/null || :
rc=$(cat "$d/rc" 2>/dev/null) || rc=137
case $rc in '' | *[!0-9]*) rc=137 ;; esac
printf '\n%s end %s\n' "$mark" "$rc"
"""


def folder(run: Run, jobs: str) -> str:
    """Return the folder of a job: the same for the same command, so that a second run finds the job of the first."""
    digest = hashlib.sha256(repr((run.words, run.stdin)).encode()).hexdigest()
    return f"{jobs}/{digest[:24]}"


class Follower:
    """Follows one job over as many connections as needed.

    Args:
        run: the job.
        on_line: gets every line of output once.
        jobs: the folder of jobs on the host.
        timeout_factor: by how much every time limit is longer than usual. The folder of the job does not depend on it.
    """

    def __init__(
        self,
        run: Run,
        on_line: Callable[[str], None],
        jobs: str = host_paths.DEFAULT.jobs,
        timeout_factor: int = 1,
    ) -> None:
        self.run = stretched(run, timeout_factor)
        self.folder = folder(run, jobs)
        self.on_line = on_line
        self.seen = 0
        self._token = script.make_mark()
        self._mark = ""
        self._raw = b""
        self._begun = False
        self._rest = b""
        self._shown = False  # whether the rest was shown before its newline counted as seen
        self._tail = b""
        self._exit: int | None = None

    def script(self) -> bytes:
        """Return the script that starts the job or attaches to it, and prints the log from the last byte seen."""
        self._mark, self._raw, self._begun = script.make_mark(), b"", False
        words = (self.folder, f"{self.run.timeout:g}", str(self.seen), self._mark, self._token, *self.run.words)
        stdin = base64.b64encode(self.run.stdin).decode()
        follow = f"sh -c {shlex.quote(FOLLOW)} follow {shlex.join(words)}"
        head = script.PRELUDE.split("umask", 1)[0].strip("\n")
        return f"{head}\nmain() {{\nprintf %s '{stdin}' | base64 -d | {follow}\n}}\nmain\n".encode()

    def feed(self, chunk: bytes) -> None:
        """Take the bytes that the connection brought."""
        self._raw += chunk
        if not self._begun:
            _, mark, rest = self._raw.partition(f"\n{self._mark} begin\n".encode())
            if not mark:
                return
            self._begun, self._raw = True, rest
        self._take()

    def answer(self) -> Answer | None:
        """Return the job's exit code and the end of its log; None before the end."""
        if self._exit is None:
            return None
        self._show_rest()
        return Answer(self._exit, self._tail)

    def _take(self) -> None:
        """Pass on the bytes that cannot be part of the end mark.

        Held back is the last newline with all that follows, if these bytes can begin the end mark. That newline may
        belong to the mark, so it does not count as seen. The line before the newline is whole in both cases.
        """
        end = f"\n{self._mark} end ".encode()
        body, ended, tail = self._raw.partition(end)
        if ended:
            self._raw = end + tail
        else:
            last = self._raw.rfind(b"\n")
            cut = last if last >= 0 and end.startswith(self._raw[last:]) else len(self._raw)
            body, self._raw = self._raw[:cut], self._raw[cut:]
        self._log(body)
        if self._raw:
            self._show_rest()
        if b"\n" in tail:
            self._exit = int(tail.split(b"\n", 1)[0])
            self._raw = b""

    def _log(self, body: bytes) -> None:
        self.seen += len(body)
        self._tail = (self._tail + body)[-TAIL:]
        *lines, self._rest = (self._rest + body).split(b"\n")
        if lines and self._shown:
            del lines[0]
            self._shown = False
        for line in lines:
            self._show(line)

    def _show_rest(self) -> None:
        """Show the last line, whose newline is held back or never comes, unless the line is shown already."""
        if self._rest and not self._shown:
            self._shown = True
            self._show(self._rest)

    def _show(self, line: bytes) -> None:
        self.on_line(line.decode(errors="replace").rstrip("\r"))
