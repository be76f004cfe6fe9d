"""The journal on each host of what runs did to it. Pure: the commands that write it; `past` reads it.

A run that changes a host has one file there, a JSON record a line: `begin`; for each change `change`, written in the
same exec before its commands, and `done` after them, or `failed`; `end`. States are in the journal by the sha256 of
their JSON, which is in the host's store, root's alone, beside the bytes of files: what rollback needs may be secret.
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
from provision.steps.base import State
from provision.steps.system.file import STORE as FILES
from provision.steps.system.file_scan import Content

FOLDER = "/var/lib/provision/journal"
STORE = FILES
WORSE = ("changed", "stopped", "locked", "unreachable", "failed")  # results, the worst last
Kind = Literal["deploy", "rollback", "drain", "undrain"]
"""What a run that changes hosts does."""
DRAINS: tuple[Kind, ...] = ("drain", "undrain")  # what they did is undone by each other, and survives a rollback
RUNS = 50  # journals that a host keeps; of drains as many again, or they would push out what can be rolled back
TOLD = 200  # characters of what was called that the host's own log is told: a drain names its instances

# $1 folder, $2 store, $3 run; records and what is to be kept on standard input. Each record is told when it came, by
# the host's clock and by its uptime and boot, which no clock that is set changes. A line that a full disk cut short
# must not take the next one with it. One at a time: what one writes before its record names it, another that comes to
# its end would sweep away.
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

# The same, and the host's own log is told: $4 what.
TELL = (
    WRITE
    + r"""
! command -v logger >/dev/null || logger -t provision -p user.notice -- "$4" || :
"""
)

# The same, and what a run that has ended leaves to do. $5 how many journals stay, and how many of drains; this run
# stays too. Runs are counted in the order of their ids, which carry the operator's time. The age of a file means
# nothing: a host's clock that is wrong once would make every other journal old. What no journal names any more is not
# kept: a state names the bytes of its files.
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
    """What one run has to write on one host.

    Args:
        run: id of the run.
        command: what was called, its kind first, such as `deploy`. Never its options, in which there may be secrets.
    """

    run: str
    command: str
    changes: list[str] = field(default_factory=list)
    """Ids of the steps whose commands were begun, in order."""
    ended: bool = False
    """Whether nothing was begun since the last `end`."""
    result: str = WORSE[0]
    """The worst that has come of it so far: marks may be written on a balancer after its own part has failed."""

    def before(self, change: Change) -> Run:
        """Write that a change comes now, and keep what is needed to undo it; tell the host's own log of the first."""
        records: list[Mapping[str, Any]] = []
        first = not self.changes
        if first:
            now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            records.append(
                {"record": "begin", "run": self.run, "time": now, "who": lock.who(), "command": self.command}
            )
        have, want = _text(change.have), _text(change.want)
        # A rollback puts back what was found before the first change of a step: no more is kept, or marks made in the
        # course of a roll would keep every upstream in between.
        seen = change.have is None or change.step.id in self.changes
        known = {} if seen else {str(one): one.data for one in _contents(change.have)}
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
        return self._run(TELL, records, kept, self._said("begins")) if first else self._run(WRITE, records, kept)

    def done(self, step: str) -> Run:
        """Write that a change's commands have ended well; that it cannot be written is no failure of the change."""
        return self._run(WRITE, [{"record": "done", "step": step}], ok=())

    def end(self, result: str = "changed", failed: Mapping[str, Any] | None = None) -> Run:
        """Write what came of the run on this host, tell the host's own log, and forget runs of long ago.

        Args:
            result: as the recap names it; a better one than before does not count.
            failed: `step`, `exit` and `why` of what failed.
        """
        self.ended = True
        self.result = max((self.result, result if result in WORSE else WORSE[0]), key=WORSE.index)
        count = len(dict.fromkeys(self.changes))
        records: list[Mapping[str, Any]] = [{"record": "failed", **failed}] if failed else []
        records.append({"record": "end", "result": self.result, "changes": count})
        steps = f"{count} step{'s' if count != 1 else ''}"
        said = self._said(f"{steps}, {self.result}")
        return self._run(END, records, None, said, str(RUNS), ok=())

    def _said(self, what: str) -> str:
        return f"run {self.run} by {lock.who()}: {self.command:.{TOLD}}, {what}"

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
        argv = ("sh", "-c", script.strip("\n"), "journal", FOLDER, STORE, self.run, *words)
        stdin = "".join(f"{line}\n" for line in lines).encode()
        return Run(argv, stdin, CHANGE_TIMEOUT, ok, f"write the journal in {FOLDER}")


def _text(state: State) -> bytes | None:
    """A state as it is kept; what else it may hold beside JSON's own types is a hash."""
    return None if state is None else json.dumps(state, sort_keys=True, default=str).encode()


def kind_of(command: str) -> str:
    """The kind of a run: the first word of its command, as a journal or a log has it; empty for an empty command."""
    return command.partition(" ")[0]


def digest(text: bytes) -> str:
    """The name of these bytes in the store."""
    return hashlib.sha256(text).hexdigest()


def _contents(value: Any) -> Iterator[Content]:
    """Everything in a state whose bytes are known."""
    if isinstance(value, Content):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _contents(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _contents(one)
