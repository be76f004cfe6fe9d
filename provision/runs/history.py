"""The past runs, from the journals of the hosts. Pure: the commands that read the journals, and their parsers.

A journal may be damaged, and a host may answer anything. A line that is no record of ours is left out, and stored bytes
that do not match their hash are not used.
"""

import base64
import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provision.command import READ_TIMEOUT, Answer, Run, Script, sh
from provision.errors import FactError
from provision.runs import journal
from provision.ssh.host_paths import DEFAULT, HostPaths
from provision.steps.base import State
from provision.steps.system.file_scan import Content

DEEPEST = 50  # levels of a state that are read; Python ends at a few hundred

# $1 folder, $2 number of runs. Newest first, for each run: the begin, the last resume, the last failure, the last line.
LIST = Script(
    "journal/list",
    r"""
[ -d "$1" ] || exit 0
cd -- "$1"
ls -1 | grep '\.jsonl$' | sort -r | head -n "$2" | while IFS= read -r name; do
  printf '# %s %s\n' "$(grep -c '"record": "change"' -- "$name")" "${name%.jsonl}"
  grep '"record": "begin"' -- "$name" | sed -n '1p;$p' | cut -c1-4000
  grep '"record": "failed"' -- "$name" | tail -n 1 | cut -c1-4000
  tail -n 1 -- "$name" | cut -c1-4000
done
""",
)

# $1 folder, $2 store, $3 run, $4 `bytes` for the bytes of files too.
READ = Script(
    "journal/read",
    r"""
journal=$1/$3.jsonl
[ -f "$journal" ] || exit 0
echo '# journal'
head -c 8000000 -- "$journal"
echo
echo '# kept'
changes=$(grep '"record": "change"' -- "$journal") || exit 0
{
  printf '%s\n' "$changes" | grep -oE '"(have|want)": "[0-9a-f]{64}"' || :
  if [ "$4" = bytes ]; then printf '%s\n' "$changes" | grep -oE '"bytes": \[[^]]*\]' || :; fi
} | grep -oE '[0-9a-f]{64}' | sort -u | while IFS= read -r name; do
  [ ! -f "$2/$name" ] || printf '%s %s\n' "$name" "$(head -c 5000000 -- "$2/$name" | base64 -w 0)"
done
""",
)


@dataclass(frozen=True)
class Entry:
    """One run in the list of runs.

    Args:
        run: the id.
        time: the begin, by the operator's machine.
        who: operator and machine.
        command: the command.
        changes: the number of changes that were begun.
        result: as in the recap; `unfinished` for a run without an end.
        step: the step that failed, or that was begun and has no end.
        why: the failure.
        resumed: the begin or the last resume.
    """

    run: str
    time: str
    who: str
    command: str
    changes: int
    result: str
    step: str = ""
    why: str = ""
    resumed: str = ""

    @property
    def kind(self) -> str:
        """`deploy`, `rollback`, `drain` or `undrain`; empty if the journal has no command."""
        return journal.kind_of(self.command)


@dataclass(frozen=True)
class ChangeRecord:
    """A change of a run, from the journal.

    Args:
        step: id of the step.
        role: the role of the step.
        action: `add`, `change` or `remove`.
        reason: why the step changed.
        have: the state on the host before.
        want: the wanted state.
        known: whether the host still has both states.
        result: `done`, `failed` or `unfinished`.
        exit: exit code of the failed command, or None.
        why: the failure.
    """

    step: str
    role: str
    action: str
    reason: str
    have: State
    want: State
    known: bool
    result: str = "unfinished"
    exit: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Story:
    """One run on one host.

    Args:
        entry: the run.
        changes: the changes, in order.
    """

    entry: Entry
    changes: tuple[ChangeRecord, ...]


def listed(most: int, paths: HostPaths = DEFAULT) -> Run:
    """Return the command that lists the runs of a host. Read only.

    Args:
        most: the number of runs, newest first.
        paths: the folders of runs on the host.
    """
    return sh(LIST, paths.journal, str(most), title="read the journals", timeout=READ_TIMEOUT)


def entries(answer: Answer) -> list[Entry]:
    """Parse the answer to `listed`: runs, newest first. A file that is no journal of ours is left out.

    Raises:
        FactError: the journals cannot be read.
    """
    _checked(answer)
    runs: list[tuple[str, int, list[Mapping[str, Any]]]] = []
    for line in answer.text.splitlines():
        if head := re.fullmatch(r"# (\d{1,18}) (\S{1,100})", line):
            runs.append((head[2], int(head[1]), []))
        elif runs and (record := _record(line)):
            runs[-1][2].append(record)
    return [_entry(run, changes, records) for run, changes, records in runs]


def read(run: str, paths: HostPaths = DEFAULT, *, with_bytes: bool = False) -> Run:
    """Return the command that reads one run. Read only.

    Args:
        run: the id.
        paths: the folders of runs on the host.
        with_bytes: read the bytes of files too, of files that everybody on the host could read.
    """
    words = (paths.journal, paths.store, run, "bytes" if with_bytes else "")
    return sh(READ, *words, title=f"read the journal of {run}", timeout=READ_TIMEOUT)


def story(run: str, answer: Answer) -> Story | None:
    """Parse the answer to `read`; None if the host knows no such run.

    Args:
        run: the id.
        answer: to `read`.

    Raises:
        FactError: the journal cannot be read.
    """
    _checked(answer)
    head, mark, kept = answer.text.partition("\n# kept\n")
    if not answer.text:
        return None
    if not mark:
        raise FactError("the journal cannot be read", stderr=answer.text[:300])
    records = [record for record in map(_record, head.splitlines()) if record]
    states = _kept(kept)
    changes: list[ChangeRecord] = []
    for record in records:
        if record["record"] == "change":
            changes.append(_change(record, states))
        elif record["record"] in ("done", "failed"):
            _settle(changes, record)
    return Story(_entry(run, len(changes), records), tuple(changes))


def _checked(answer: Answer) -> None:
    if answer.exit:
        raise FactError("the journal cannot be read", exit_status=answer.exit, stderr=answer.complaint)


def _record(line: str) -> Mapping[str, Any] | None:
    """Parse a record; None for any other line, such as half a line on a full disk."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("record"), str) else None


def _entry(run: str, changes: int, records: Sequence[Mapping[str, Any]]) -> Entry:
    begun = [record for record in records if record["record"] == "begin"] or [{}]
    failed = [record for record in records if record["record"] == "failed"]
    last = records[-1] if records else {}
    ended = last.get("record") == "end"
    broken = failed[-1] if ended and failed and last.get("result") != "changed" else {} if ended else last
    return Entry(
        run=run,
        time=_string(begun[0], "time"),
        who=_string(begun[0], "who"),
        command=_string(begun[0], "command"),
        changes=changes,
        result=_string(last, "result") if ended else "unfinished",
        step=_string(broken, "step") if broken.get("record") in ("failed", "change") else "",
        why=_string(broken, "why"),
        resumed=_string(begun[-1], "time"),
    )


def _string(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""


def _change(record: Mapping[str, Any], kept: Mapping[str, bytes]) -> ChangeRecord:
    names = [record.get(key) for key in ("have", "want")]
    have, want = (_state(name, kept) for name in names)
    known = any(names) and all(name is None or (isinstance(name, str) and name in kept) for name in names)
    step, role, action, reason = (_string(record, key) for key in ("step", "role", "action", "reason"))
    return ChangeRecord(step, role, action, reason, have, want, known)


def _settle(changes: list[ChangeRecord], record: Mapping[str, Any]) -> None:
    """Note the result of the latest change of a step."""
    for number in range(len(changes) - 1, -1, -1):
        if changes[number].step == record.get("step"):
            code = record.get("exit")
            result, code = str(record["record"]), code if isinstance(code, int) else None
            changes[number] = dataclasses.replace(changes[number], result=result, exit=code, why=_string(record, "why"))
            return


def _kept(text: str) -> dict[str, bytes]:
    """Return name -> bytes, of all bytes that match their name."""
    known = {}
    for line in text.splitlines():
        name, _, encoded = line.partition(" ")
        with contextlib.suppress(ValueError):
            data = base64.b64decode(encoded, validate=True)
            if journal.digest(data) == name:
                known[name] = data
    return known


def _state(name: Any, kept: Mapping[str, bytes]) -> State:
    """Return a state with its known bytes; None for a thing that was absent."""
    data = kept.get(name) if isinstance(name, str) else None
    try:
        value = json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    return _alive(value, kept) if isinstance(value, dict) else None


def _alive(value: Any, kept: Mapping[str, bytes], room: int = DEEPEST) -> Any:
    """Replace hashes in a value by the bytes, where known, and cut a value that is nested deeper than any state.

    Args:
        value: a part of a state.
        kept: name -> bytes.
        room: levels that may follow.
    """
    if isinstance(value, dict | list) and not room:
        return None
    if isinstance(value, dict):
        return {key: _alive(item, kept, room - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_alive(item, kept, room - 1) for item in value]
    return Content(kept[value]) if isinstance(value, str) and value in kept else value


def hidden(story: Story | None, hide: Callable[[Any], Any]) -> Story | None:
    """Mask the secrets of a run: the reason of a failure may quote a command's output.

    Args:
        story: the run, or None.
        hide: masks secrets in a value.
    """
    if story is None:
        return None
    changes = [
        dataclasses.replace(
            change, have=hide(change.have), want=hide(change.want), reason=hide(change.reason), why=hide(change.why)
        )
        for change in story.changes
    ]
    return Story(dataclasses.replace(story.entry, why=hide(story.entry.why)), tuple(changes))
