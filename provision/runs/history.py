"""What runs did, out of the hosts' journals. Pure: the commands that read them, and the parsers of their answers.

A journal may be damaged, and a host may say anything: what is no record of ours is left out, and what is not what its
hash says is not believed.
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
from provision.steps.base import State
from provision.steps.system.file_scan import Content

# $1 folder, $2 how many. Newest first: of each what it began with and was resumed with, what failed, what came last.
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

# $1 folder, $2 store, $3 run, $4 `bytes` for those of files too.
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
    """One run, as the list of them shows it.

    Args:
        run: its id.
        time: when it began, by the operator's machine.
        who: operator and machine.
        command: what was called.
        changes: how many changes were begun.
        result: as the recap named it; `unfinished` where it did not come to its end.
        step: the step that failed, or that was begun and not ended.
        why: what failed.
        resumed: when it was begun or resumed last.
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
        """`deploy`, `rollback`, `drain` or `undrain`; empty where the journal does not say it."""
        return journal.kind_of(self.command)


@dataclass(frozen=True)
class Made:
    """One change that a run made, or began.

    Args:
        step: the step's id.
        role: its role.
        action: `add`, `change` or `remove`.
        reason: why.
        have: what was found before.
        want: what was wanted.
        known: whether the host still has both of them.
        result: `done`, `failed` or `unfinished`.
        exit: exit code of what failed, where there was one.
        why: what failed.
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
    """What one run did on one host.

    Args:
        entry: the run.
        made: its changes, in order.
    """

    entry: Entry
    made: tuple[Made, ...]


def listed(most: int) -> Run:
    """Read which runs a host knows; writes nothing.

    Args:
        most: how many, the newest first.
    """
    return sh(LIST, journal.FOLDER, str(most), title="read the journals", timeout=READ_TIMEOUT)


def entries(answer: Answer) -> list[Entry]:
    """The runs that `listed` found, the newest first. What is no journal of ours is left out.

    Raises:
        FactError: it could not be read.
    """
    _checked(answer)
    found: list[tuple[str, int, list[Mapping[str, Any]]]] = []
    for line in answer.text.splitlines():
        if head := re.fullmatch(r"# (\d+) (\S{1,100})", line):
            found.append((head[2], int(head[1]), []))
        elif found and (record := _record(line)):
            found[-1][2].append(record)
    return [_entry(run, changes, records) for run, changes, records in found]


def read(run: str, *, with_bytes: bool = False) -> Run:
    """Read what one run did; writes nothing.

    Args:
        run: its id.
        with_bytes: the bytes of files too, as far as everybody on the host could read them.
    """
    words = (journal.FOLDER, journal.STORE, run, "bytes" if with_bytes else "")
    return sh(READ, *words, title=f"read the journal of {run}", timeout=READ_TIMEOUT)


def story(run: str, answer: Answer) -> Story | None:
    """What `read` found, or None where the host knows no such run.

    Args:
        run: its id.
        answer: to `read`.

    Raises:
        FactError: it could not be read.
    """
    _checked(answer)
    head, mark, kept = answer.text.partition("\n# kept\n")
    if not answer.text:
        return None
    if not mark:
        raise FactError("the journal cannot be read", stderr=answer.text[:300])
    records = [record for record in map(_record, head.splitlines()) if record]
    states = _kept(kept)
    made: list[Made] = []
    for record in records:
        if record["record"] == "change":
            made.append(_made(record, states))
        elif record["record"] in ("done", "failed"):
            _settle(made, record)
    return Story(_entry(run, len(made), records), tuple(made))


def _checked(answer: Answer) -> None:
    if answer.exit:
        raise FactError("the journal cannot be read", exit_status=answer.exit, stderr=answer.complaint)


def _record(line: str) -> Mapping[str, Any] | None:
    """A record; None for what is none, such as half a line of a disk that was full."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("record"), str) else None


def _entry(run: str, changes: int, records: Sequence[Mapping[str, Any]]) -> Entry:
    begun = [record for record in records if record["record"] == "begin"] or [{}]
    failed = [record for record in records if record["record"] == "failed"]
    last = records[-1] if records else {}
    ended = last.get("record") == "end"
    told = failed[-1] if ended and failed and last.get("result") != "changed" else {} if ended else last
    return Entry(
        run=run,
        time=_said(begun[0], "time"),
        who=_said(begun[0], "who"),
        command=_said(begun[0], "command"),
        changes=changes,
        result=_said(last, "result") if ended else "unfinished",
        step=_said(told, "step") if told.get("record") in ("failed", "change") else "",
        why=_said(told, "why"),
        resumed=_said(begun[-1], "time"),
    )


def _said(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""


def _made(record: Mapping[str, Any], kept: Mapping[str, bytes]) -> Made:
    names = [record.get(key) for key in ("have", "want")]
    have, want = (_state(name, kept) for name in names)
    known = any(names) and all(name is None or (isinstance(name, str) and name in kept) for name in names)
    step, role, action, reason = (_said(record, key) for key in ("step", "role", "action", "reason"))
    return Made(step, role, action, reason, have, want, known)


def _settle(made: list[Made], record: Mapping[str, Any]) -> None:
    """Note what came of the latest change of a step."""
    for number in range(len(made) - 1, -1, -1):
        if made[number].step == record.get("step"):
            code = record.get("exit")
            result, code = str(record["record"]), code if isinstance(code, int) else None
            made[number] = dataclasses.replace(made[number], result=result, exit=code, why=_said(record, "why"))
            return


def _kept(text: str) -> dict[str, bytes]:
    """Name -> bytes, of what is what its name says."""
    found = {}
    for line in text.splitlines():
        name, _, encoded = line.partition(" ")
        with contextlib.suppress(ValueError):
            data = base64.b64decode(encoded, validate=True)
            if journal.digest(data) == name:
                found[name] = data
    return found


def _state(name: Any, kept: Mapping[str, bytes]) -> State:
    """A state with the bytes that are known in it; None for a thing that was not there."""
    data = kept.get(name) if isinstance(name, str) else None
    try:
        found = json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None
    return _alive(found, kept) if isinstance(found, dict) else None


def _alive(value: Any, kept: Mapping[str, bytes]) -> Any:
    """The value with hashes of bytes that are known made what they were when it was read."""
    if isinstance(value, dict):
        return {key: _alive(one, kept) for key, one in value.items()}
    if isinstance(value, list):
        return [_alive(one, kept) for one in value]
    return Content(kept[value]) if isinstance(value, str) and value in kept else value


def hidden(story: Story | None, hide: Callable[[Any], Any]) -> Story | None:
    """The same with nothing secret in it: what a command said may be in the reason of a failure.

    Args:
        story: what a run did, or None.
        hide: takes secrets out of a value.
    """
    if story is None:
        return None
    made = [
        dataclasses.replace(one, have=hide(one.have), want=hide(one.want), reason=hide(one.reason), why=hide(one.why))
        for one in story.made
    ]
    return Story(dataclasses.replace(story.entry, why=hide(story.entry.why)), tuple(made))
