"""The processes that hold memory of a host's cards, as nvidia-smi lists them, each with its container.

Sources: columns and their odd values (`[N/A]`, `[Not Found]`), docs/facts.md#nvidia-smi; nvidia-smi on a host prints
the host's own process ids. Docker names a container's cgroup `.../docker/ID` (driver cgroupfs) or `.../docker-ID.scope`
(driver systemd), on a line for each hierarchy in cgroup v1 and on one line in v2, proc(5).
"""

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MOST = 256  # processes to look up
LIMIT = 30  # seconds for nvidia-smi
DONE = "(exit code 0)"

# The name comes last: it may hold anything. A process that ended meanwhile has no files in /proc.
SHELL = rf"""
applications() {{
  command -v nvidia-smi >/dev/null 2>&1 || return 0
  rows=$({{ timeout -k 1 {LIMIT} nvidia-smi --query-compute-apps=gpu_uuid,pid,used_gpu_memory,process_name \
    --format=csv,noheader,nounits; echo "(exit code $?)"; }} 2>&1 | head -c 100000)
  set --
  for pid in $(printf '%s\n' "$rows" | sed -nE 's/^[^,]*, ([0-9]{{1,10}}), .*/\1/p' | head -n {MOST}); do
    set -- "$@" "/proc/$pid/cgroup" "/proc/$pid/comm"
  done
  {{ printf '%s\n' "$rows"; [ $# -eq 0 ] || grep -aHs . -- "$@"; }} |
    base64 -w 3000 | while read -r part; do printf 'host applications %s\n' "$part"; done
}}
"""

_ROW = re.compile(r"([^,]+), (\d{1,10}), ([^,]*), (.*)")
_FILE = re.compile(r"/proc/(\d+)/(cgroup|comm):(.*)")
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Application:
    """A process that holds memory of a card.

    Args:
        card: UUID of the card.
        pid: id of the process.
        program: name of the program, without folder and arguments.
        container: name of its container; empty for a process outside of Docker's containers.
    """

    card: str
    pid: int
    program: str
    container: str


def parse(text: str, containers: Mapping[str, str]) -> tuple[Application, ...] | None:
    """Parse the shell's answer; None where nvidia-smi is missing or failed, so that nobody knows the processes.

    Args:
        text: the parts of the answer, joined.
        containers: id -> name.
    """
    lines = base64.b64decode(text).decode(errors="replace").splitlines()
    if DONE not in lines:
        return None
    end = len(lines) - 1 - lines[::-1].index(DONE)  # the last mark: a program's name may contain the same text
    files = [match for line in lines[end + 1 :] if (match := _FILE.match(line))]
    return tuple(
        sorted(
            _applications(lines[:end], files, containers), key=lambda application: (application.card, application.pid)
        )
    )


def _applications(rows: list[str], files: list[re.Match[str]], containers: Mapping[str, str]) -> Iterator[Application]:
    names = {match[1]: match[3] for match in files if match[2] == "comm"}
    groups: dict[str, str] = {}
    for match in files:
        if match[2] == "cgroup":
            groups[match[1]] = f"{groups.get(match[1], '')} {match[3]}"
    for row in filter(None, map(_ROW.match, rows)):
        card, pid, _, name = row.groups()
        if pid in groups:
            ids = [each for each in _ID.findall(groups[pid]) if each in containers]
            yield Application(card, int(pid), _program(name, names.get(pid, "")), containers[ids[-1]] if ids else "")


def _program(shown: str, comm: str) -> str:
    """A program's name: `python3` for `/usr/bin/python3 train.py`; the kernel's name where nvidia-smi shows no name.

    An inventory can list any returned name: a line of at most 128 printable characters.
    """
    words = [] if shown.startswith("[") else shown.split(maxsplit=1)
    name = (words[0].rpartition("/")[2].rstrip(":") if words else "") or comm  # `tmux:` in a list is YAML's mapping
    printable = "".join(letter if letter.isprintable() else "?" for letter in name[:128])
    return printable.strip() or "a program"
