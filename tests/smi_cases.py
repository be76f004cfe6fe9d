"""The cases of nvidia-smi: what the program answers to our own calls, and the cards that the host facts then have.

A file of `tests/unit/nvidia_smi` has
source:   `recorded` (a real nvidia-smi printed the answers), `documentation`, or `derived`
of:       the program with its version, or the page or reason
stand_in: of a recording, the variables of the stand-in for NVIDIA's library (tests/real/nvml/stand_in.c)
answers:  each call of ours: arguments, exit code, standard output
cards:    the cards; fields with the default value are left out
error:    the first words of the reason why cards may be missing

A file of `tests/unit/nvidia_smi/details` has the same for the details of the cards: `details` in place of `cards`, and
`kernel`, the lines of the kernel's log.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import yaml

from provision.command import Answer, Run
from provision.steps import card_details, facts
from provision.steps.card_details import CardDetails, Details
from provision.steps.facts import HostFacts
from provision.steps.nvidia_smi import Card

FOLDER = Path(__file__).parent / "unit" / "nvidia_smi"
DETAILS = FOLDER / "details"
SOURCES = ("recorded", "documentation", "derived")
_UNRECORDED = 99


def cases(folder: Path = FOLDER) -> Mapping[str, Mapping[str, Any]]:
    """Return the cases of a folder by name."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}


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
    return facts.parse(host_answer(folder, program, proc))


def host_answer(folder: Path, program: str, proc: Path = Path("/proc")) -> str:
    """Return the answer that `host_facts` parses."""
    return _run(facts.command(()), folder, {"nvidia-smi": program, "ip": "#!/bin/sh\n", "docker": FAILS}, proc).decode()


def details(folder: Path, program: str, kernel: str = "", proc: Path = Path("/proc")) -> Details:
    """Read the details of the cards of a machine with a given nvidia-smi, by our own script.

    Args:
        folder: an empty folder for the programs of the machine.
        program: text of nvidia-smi.
        kernel: lines of the kernel's log, as journalctl prints the log.
        proc: as for `host_facts`.
    """
    journal = f"#!/bin/sh\nprintf %s {shlex.quote(kernel)}\n"
    programs = {"nvidia-smi": program, "journalctl": journal, "dmesg": FAILS}
    return card_details.read(Answer(0, _run(card_details.command(), folder, programs, proc)))


FAILS = "#!/bin/sh\nexit 1\n"


def _run(command: Run, folder: Path, programs: Mapping[str, str], proc: Path) -> bytes:
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    script = command.stdin.replace(b"/proc/[0-9]*", f"{proc}/[0-9]*".encode())
    return subprocess.run(command.words, input=script, capture_output=True, env=environment, check=True).stdout


def shown(card: Card | CardDetails) -> dict[str, Any]:
    """Return a card as a case shows the card.

    Args:
        card: of the host facts, or the details of a card.
    """
    values = {field.name: getattr(card, field.name) for field in fields(card)}
    for name in ("devices", "reports"):
        if name in values:
            values[name] = [vars(entry) for entry in values[name]] or ()
    defaults = {field.name: field.default for field in fields(card) if field.default is not MISSING}
    return {name: value for name, value in values.items() if name not in defaults or value != defaults[name]}
