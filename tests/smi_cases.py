"""The cases of nvidia-smi: what the program answers to our own calls, and the cards that the host facts then have.

A file of `tests/unit/nvidia_smi` has
source:   `recorded` (a real nvidia-smi printed the answers), `documentation`, or `derived`
of:       the program with its version, or the page or reason
stand_in: of a recording, the variables of the stand-in for NVIDIA's library (tests/real/nvml/stand_in.c)
answers:  each call of ours: arguments, exit code, standard output
cards:    the cards; fields with the default value are left out
error:    the first words of the reason why cards may be missing
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from provision.steps import facts
from provision.steps.facts import HostFacts
from provision.steps.nvidia_smi import Card

FOLDER = Path(__file__).parent / "unit" / "nvidia_smi"
SOURCES = ("recorded", "documentation", "derived")
_UNRECORDED = 99


def cases() -> Mapping[str, Mapping[str, Any]]:
    """Return the cases by name."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}


def replay(answers: Sequence[Mapping[str, Any]]) -> str:
    """Return a program that gives the recorded answers, and fails at any other call.

    Args:
        answers: of a case.
    """
    rows = [
        f"{shlex.quote(item['asked'])}) printf %s {shlex.quote(item['output'])}; exit {item['exit']} ;;"
        for item in answers
    ]
    lines = ["#!/bin/sh", 'case "$*" in', *rows, f'*) echo "no answer to $*"; exit {_UNRECORDED} ;;', "esac", ""]
    return "\n".join(lines)


def recording(program: Path, library: Path, into: Path, variables: Mapping[str, Any]) -> str:
    """Return a program that runs a real nvidia-smi and notes each call.

    Args:
        program: the real nvidia-smi.
        library: the folder of the stand-in for NVIDIA's library.
        into: an empty folder for the notes.
        variables: of the stand-in.
    """
    settings = [f"{name}={shlex.quote(str(value))}" for name, value in variables.items()]
    words = " ".join(["env", f"LD_LIBRARY_PATH={shlex.quote(str(library))}", *settings, shlex.quote(str(program))])
    return f"""#!/bin/sh
note=$(mktemp --tmpdir={shlex.quote(str(into))})
rc=0; {words} "$@" >"$note.out" 2>"$note.err" || rc=$?
printf '%s' "$rc" >"$note.exit"; printf '%s' "$*" >"$note.asked"
cat "$note.out"; cat "$note.err" >&2
exit $rc
"""


def recorded(into: Path) -> list[dict[str, Any]]:
    """Return the noted calls, sorted by their arguments.

    Args:
        into: the folder of the notes.
    """
    calls = []
    for asked in into.glob("*.asked"):
        output, errors, code = (asked.with_suffix(suffix).read_text() for suffix in (".out", ".err", ".exit"))
        call = {"asked": asked.read_text(), "exit": int(code), "output": output}
        call |= {"errors": errors} if errors else {}
        calls += [call] if call not in calls else []
    return sorted(calls, key=lambda call: str(call["asked"]))


def host_facts(folder: Path, program: str, proc: Path = Path("/proc")) -> HostFacts:
    """Read the host facts of a machine with a given nvidia-smi, by our own script.

    Args:
        folder: an empty folder for the programs of the machine.
        program: text of nvidia-smi.
        proc: the folder in the place of /proc where the script looks for processes that hang.
    """
    for name, text in {"nvidia-smi": program, "ip": "#!/bin/sh\n", "docker": "#!/bin/sh\nexit 1\n"}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    command = facts.command(())
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    script = command.stdin.replace(b"/proc/[0-9]*", f"{proc}/[0-9]*".encode())
    said = subprocess.run(command.words, input=script, capture_output=True, env=environment, check=True)
    return facts.parse(said.stdout.decode())


def shown(card: Card) -> dict[str, Any]:
    """Return a card as a case shows the card.

    Args:
        card: of the host facts.
    """
    values = {field.name: getattr(card, field.name) for field in fields(card)}
    defaults = {field.name: field.default for field in fields(card) if field.default is not MISSING}
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
