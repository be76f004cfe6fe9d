"""What changes between two configurations of nginx, in lines for an operator. No line has text of a file that others
may not read.
"""

import re

from provision.steps.base import State
from provision.steps.nginx_paths import CONFIG
from provision.steps.system.file_scan import Content
from provision.steps.wording import changed_entries, text_diff

MARK = "generation.conf"
USUAL = "file 0644 root:root"


def diff(have: State, want: State) -> list[str]:
    """A unified diff of every file; else the part that nginx has not loaded yet.

    Args:
        have: the configuration as found.
        want: the configuration as wanted.
    """
    lines = [line for name in _names(have, want) for line in _file_diff(name, have, want)]
    touched = (have or {}).get("touched", []) if want and not lines else []
    return [*lines, *touched, *_odd_diff(have, want), *_pending(have, want)]


def _names(*states: State) -> list[str]:
    return sorted({name for state in states if state is not None for name in state["files"]} - {MARK})


def _file_diff(name: str, have: State, want: State) -> list[str]:
    old, new = ((state or {}).get("files", {}).get(name, "") for state in (have, want))
    if old == new:
        return []
    texts = [content.data.decode(errors="replace") if isinstance(content, Content) else "" for content in (old, new)]
    if not old or not new:
        lines = f" ({sum(text.count(chr(10)) for text in texts)} lines)" if any(texts) else ""
        return [f"{'-' if old else '+'} {name}{lines}"]
    if _is_closed(name, have) or _is_closed(name, want):
        return [f"{name}: sha256 {old[:12]} -> {new[:12]}"]
    return text_diff(texts[0], texts[1], f"{CONFIG}/{name}") or [f"{name}: {old} -> {new}"]


def _is_closed(name: str, state: State) -> bool:
    """Whether others may not read a file: then its text is not shown."""
    mode = ((state or {}).get("odd") or {}).get(name, USUAL)
    return not re.search(r" [0-7]*[4-7] ", mode)


def other_modes(have: State, want: State) -> list[str]:
    """The files with another mode or owner; a file that comes or goes is no such file."""
    (old, were), (new, are) = (
        ((state or {}).get("odd") or {}, (state or {}).get("files", {})) for state in (have, want)
    )
    return [name for name in changed_entries(old, new) if (name in were) == (name in are)]


def _odd_diff(have: State, want: State) -> list[str]:
    old, new = ((state or {}).get("odd") or {} for state in (have, want))
    return [
        f"{CONFIG}/{name}: {old.get(name, USUAL)}" + (f" -> {new[name]}" if name in new else "")
        for name in other_modes(have, want)
    ]


def _pending(have: State, want: State) -> list[str]:
    if have is None or want is None or not have["exe"]:
        return []
    binary = [f"running: {have['exe']} -> {want['exe']}"] if have["exe"] != want.get("exe", have["exe"]) else []
    stale = have["id"] == want["id"] != have["loaded"]
    touched = have["touched"] if have["files"] == want["files"] else []
    return [
        *binary,
        *touched,
        *([f"nginx has loaded {have['loaded'] or 'nothing'}, not {want['id']}"] if stale else []),
    ]
