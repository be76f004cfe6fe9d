"""The journal of runs on each host. Pure: commands that write the journal; `history` has the commands that read.

A run that changes a host has one file there, with a JSON record per line: `begin`; for each change a `change`, written
before its commands in the same exec, and `done` or `failed` after them; `end`. The journal names a state by the sha256
of its JSON. The JSON and the bytes of files are in the host's store, readable by root alone: what a rollback needs may
be secret.
"""

import base64
import datetime as dt
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from provision.command import CHANGE_TIMEOUT, Run
from provision.plan.planner import Change
from provision.runs import lock
from provision.ssh.host_paths import HostPaths
from provision.steps.base import State
from provision.steps.system.file_scan import Content

WORSE = ("changed", "stopped", "locked", "unreachable", "failed")  # results, the worst last
Kind = Literal["deploy", "rollback", "drain", "undrain", "switch"]
"""The kinds of run that change hosts."""
DRAINS: tuple[Kind, ...] = ("drain", "undrain")  # undone by each other, and kept by a rollback
RUNS = 50  # journals kept on a host; as many drains again, so that drains do not displace runs for a rollback
TOLD = 200  # characters of the command in the host's own log: a drain names its instances

# $1 folder, $2 store, $3 run; records and stored bytes on standard input. Each record gets the host's clock, and the
# uptime and boot id, because setting the clock does not change them. A line cut short by a full disk must not damage
# the next line. One writer at a time: a run at its end would delete bytes that another run has stored and not yet
# named in a record.
WRITE = r"""
set -eu
umask 077
folder=$1 store=$2 journal=$1/$3.jsonl
mkdir -p -- "$folder" "$store"
chmod 0700 -- "$folder" "$store"
new=
# a full disk says no more than I/O error
trap '[ $? = 0 ] || df -hP -- "$store" >&2; rm -f -- "$new"' EXIT
trap 'exit 129' HUP INT TERM
exec 8>>"$folder/.guard"
flock 8
at=$(date +%s) up=$(cut -d. -f1 /proc/uptime) boot=$(cat /proc/sys/kernel/random/boot_id)
new=$(mktemp "$store/.new.XXXXXXXXXX")
if [ -s "$journal" ] && [ -n "$(tail -c 1 -- "$journal")" ]; then echo >>"$journal"; fi
while IFS= read -r line; do
  case $line in
    '{'*) printf '{"at":%s,"uptime":%s,"boot":"%s",%s\n' "$at" "$up" "$boot" "${line#?}" >>"$journal" ;;
    *)
      kept=$store/${line%% *}
      [ ! -f "$kept" ] || continue
      printf %s "${line#* }" | base64 -d >"$new"
      mv -f -- "$new" "$kept" ;;
  esac
done
sync -- "$journal"
"""

# The same, and a line $4 in the host's own log.
TELL = (
    WRITE
    + r"""
! command -v logger >/dev/null || logger -t provision -p user.notice -- "$4" || :
"""
)

# The same, and the clean-up at the end of a run. $5: the number of journals to keep, and of drains; this run stays in
# any case. Runs are counted in the order of their ids, because ids carry the operator's time. The age of a file means
# nothing: with a host's clock wrong once, every other journal would look old. Bytes that no journal names are deleted;
# a state names the bytes of its files.
END = (
    TELL
    + r"""
most=$5 own=$3.jsonl
find "$store" -name '.new.*' ! -path "$new" -delete # the guard is held: nobody writes to those any more
cd -- "$folder"
newest() { ls -1 | grep '\.jsonl$' | sort -r; }
drains=$(grep -lE '"command": "(DRAINS)[ "]' -- *.jsonl) || :
old=$(
  {
    newest | grep -xF -- "$drains" | tail -n "+$((most + 1))"
    newest | grep -vxF -- "$drains" | tail -n "+$((most + 1))"
  } | grep -vxF -- "$own"
) || :
[ -n "$old" ] || exit 0
used=$(mktemp)
trap 'rm -f -- "$new" "$used" "$used.states"' EXIT
printf '%s\n' "$old" | while IFS= read -r name; do rm -f -- "$name"; done
cat -- *.jsonl | grep -oE '[0-9a-f]{64}' | sort -u >"$used.states" || :
cd -- "$store"
{ cat "$used.states"; xargs -r -a "$used.states" grep -shoE '[0-9a-f]{64}' -- || :; } | sort -u >"$used"
{ ls -1A | grep -vxFf "$used" || :; } | while IFS= read -r name; do rm -f -- "$name"; done
""".replace("DRAINS", "|".join(DRAINS))
)


@dataclass
class Journal:
    """The journal of one run on one host.

    Args:
        run: id of the run.
        command: the command, its kind first, such as `deploy`. Never options: options may contain secrets.
        paths: the folders of runs on the host.
        who: operator and machine.
        keep: number of journals that stay on the host; as many of drains.
    """

    run: str
    command: str
    paths: HostPaths = field(default_factory=HostPaths)
    who: str = field(default_factory=lock.who)
    keep: int = RUNS
    changes: list[str] = field(default_factory=list)
    """Ids of the steps whose commands were begun, in order."""
    ended: bool = False
    """Whether no change was begun since the last `end`."""
    result: str = WORSE[0]
    """The worst result so far: a run may mark members on a balancer after the balancer's own part has failed."""

    def before(self, change: Change) -> Run:
        """Record a change before its commands, and store the state for an undo; the first change also goes to the
        host's log."""
        records: list[Mapping[str, Any]] = []
        first = not self.changes
        if first:
            now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            records.append({"record": "begin", "run": self.run, "time": now, "who": self.who, "command": self.command})
        have, want = _text(change.have), _text(change.want)
        # A rollback restores the state before the first change of a step. Later states are not stored, or the marks of
        # a roll would store every upstream in between.
        seen = change.have is None or change.step.id in self.changes
        known = {} if seen else {str(content): content.data for content in _contents(change.have)}
        records.append(
            {
                "record": "change",
                "step": change.step.id,
                "role": change.role,
                "action": change.action,
                "reason": change.reason,
                "have": have and digest(have),
                "want": want and digest(want),
                "bytes": sorted(known),
            }
        )
        self.changes.append(change.step.id)
        self.ended = False
        states = {digest(text): text for text in (have, want) if text is not None}
        kept = {**known, **states}
        return self._run(TELL, records, kept, self._log_line("begins")) if first else self._run(WRITE, records, kept)

    def done(self, step: str) -> Run:
        """Record the success of a change. A failure to write the record does not fail the change."""
        return self._run(WRITE, [{"record": "done", "step": step}], ok=())

    def end(self, result: str = "changed", failed: Mapping[str, Any] | None = None) -> Run:
        """Record the result of the run on this host, also in the host's log, and delete old runs.

        Args:
            result: as in the recap. A better result than before does not count.
            failed: `step`, `exit` and `why` of the failure.
        """
        self.ended = True
        self.result = max((self.result, result if result in WORSE else WORSE[0]), key=WORSE.index)
        count = len(dict.fromkeys(self.changes))
        records: list[Mapping[str, Any]] = [{"record": "failed", **failed}] if failed else []
        records.append({"record": "end", "result": self.result, "changes": count})
        steps = f"{count} step{'s' if count != 1 else ''}"
        line = self._log_line(f"{steps}, {self.result}")
        return self._run(END, records, None, line, str(self.keep), ok=())

    def _log_line(self, what: str) -> str:
        return f"run {self.run} by {self.who}: {self.command:.{TOLD}}, {what}"

    def _run(
        self,
        script: str,
        records: list[Mapping[str, Any]],
        kept: Mapping[str, bytes] | None = None,
        *words: str,
        ok: tuple[int, ...] = (0,),
    ) -> Run:
        lines = [f"{name} {base64.b64encode(data).decode()}" for name, data in (kept or {}).items()]
        lines += [json.dumps(record) for record in records]
        argv = ("sh", "-c", script.strip("\n"), "journal", self.paths.journal, self.paths.store, self.run, *words)
        stdin = "".join(f"{line}\n" for line in lines).encode()
        return Run(argv, stdin, CHANGE_TIMEOUT, ok, f"write the journal in {self.paths.journal}")


def _text(state: State) -> bytes | None:
    """Return a state as stored. Values beside JSON's own types are stored as text: they are hashes."""
    return None if state is None else json.dumps(state, sort_keys=True, default=str).encode()


def kind_of(command: str) -> str:
    """Return the kind of a run: the first word of its command in a journal or log; empty for an empty command."""
    return command.partition(" ")[0]


def digest(text: bytes) -> str:
    """Return the name of some bytes in the store."""
    return hashlib.sha256(text).hexdigest()


def _contents(value: Any) -> Iterator[Content]:
    """Yield everything in a state whose bytes are known."""
    if isinstance(value, Content):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _contents(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _contents(item)
