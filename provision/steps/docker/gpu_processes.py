"""The processes that hold memory of a host's cards, as nvidia-smi lists them, each with its container.

Sources: columns and their odd values (`[N/A]`, `[Not Found]`), and hosts on which nvidia-smi lists no process at all,
docs/facts.md#nvidia-smi; nvidia-smi on a host prints the host's own process ids. Docker names a container's cgroup
`.../docker/ID` (driver cgroupfs) or `.../docker-ID.scope` (driver systemd), on a line for each hierarchy in cgroup v1
and on one line in v2, proc(5).
"""

import base64
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from provision.command import READ_TIMEOUT, Answer, Run, Script, look
from provision.steps import facts, nvidia_smi

TITLE = "processes on the cards"
MOST = 256  # processes to look up
LIMIT = 30  # seconds for nvidia-smi
DONE = "(exit code 0)"
SHARE = 0.5
"""The least share of a server's claim that its processes hold on its cards: a claim is an estimate, and a process that
only looked for cards holds a few hundred MiB."""

# The name comes last: it may hold anything. A process that ended meanwhile has no files in /proc. Where nvidia-smi
# lists no process although instances run, the memory in use tells an idle host from a host that hides its processes.
# A lost card fails the whole query, so the other cards are asked by index (docs/facts.md#nvidia-smi).
SHELL = rf"""
{nvidia_smi.STUCK}
smi() {{ timeout -k 1 {LIMIT} nvidia-smi "$@" 2>&1; }}
csv() {{ smi --format=csv,noheader,nounits "$@"; }}
users() {{
  {{ csv --query-compute-apps=gpu_uuid,pid,used_gpu_memory,process_name "$@"; echo "(exit code $?)"; }} | head -c 100000
}}
applications() {{
  [ -z "$hung" ] && command -v nvidia-smi >/dev/null 2>&1 || return 0
  rows=$(users)
  used=
  case ${{ours:-}}:$rows in
    *'(exit code 15)' | *'(exit code 255)')
      listed=$(smi -L)
      {nvidia_smi.GOOD}
      [ -z "$good" ] || rows=$(users -i "$good") ;;
    *"running "*:'{DONE}') used=$(csv --query-gpu=uuid,memory.used) ;;
  esac
  set --
  for pid in $(printf '%s\n' "$rows" | sed -nE 's/^[^,]*, ([0-9]{{1,10}}), .*/\1/p' | head -n {MOST}); do
    set -- "$@" "/proc/$pid"
  done
  {{
    printf '%s\n' "$used" "$rows"
    [ $# -eq 0 ] || {{
      stat -c '%n/user:%U' -- "$@" 2>/dev/null
      for folder do set -- "$@" "$folder/cgroup" "$folder/comm"; shift; done
      grep -aHs . -- "$@"
    }}
  }} | base64 -w 3000 | while read -r part; do printf 'host applications %s\n' "$part"; done
}}
"""

_ROW = re.compile(r"([^,]+), ([^,]+), ([^,]*), (.*)")
_USED = re.compile(r"(GPU-[0-9A-Za-z-]{1,64}), (\d{1,9})")
_FILE = re.compile(r"/proc/(\d+)/(cgroup|comm|user):(.*)")
_ID = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


@dataclass(frozen=True)
class Application:
    """A process that holds memory of a card.

    Args:
        card: UUID of the card.
        pid: id of the process.
        program: name of the program, without folder and arguments.
        container: name of its container; empty for a process outside of Docker's containers.
        mib: memory of the card in MiB; None where nvidia-smi does not tell.
        user: name of the process's user; empty where unknown.
    """

    card: str
    pid: int
    program: str
    container: str
    mib: int | None = None
    user: str = ""


@dataclass(frozen=True)
class Listing:
    """The processes on the cards of a host.

    Args:
        applications: the processes, by card and id.
        unplaced: UUIDs of the cards with a listed process that the host does not know: the process has ended, or
            nvidia-smi hides or translates its id.
        used: UUID -> memory in use in MiB, where nvidia-smi listed no process at all.
    """

    applications: tuple[Application, ...] = ()
    unplaced: frozenset[str] = frozenset()
    used: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Holding:
    """Whether the processes of a container hold the memory that its server claims.

    Args:
        proved: True or False by nvidia-smi's list; None where the list cannot tell.
        words: the held memory, or the reason why the list cannot tell.
    """

    proved: bool | None = None
    words: str = ""


def holding(listing: Listing | None, container: str, cards: Collection[str], claim: float) -> Holding:
    """Compare a server's claim with nvidia-smi's list of processes. A list without processes proves nothing on a host
    whose cards are in use: some hosts hide their processes.

    Args:
        listing: of the host; None where nvidia-smi lists no processes.
        container: name of the server's container.
        cards: UUIDs of its cards.
        claim: MiB that the server says are on its cards.
    """
    if listing is None:
        return Holding(None, "nvidia-smi of the host lists no processes")
    own = [process.mib for process in listing.applications if process.container == container]
    held = sum(filter(None, own))
    if held >= claim * SHARE:
        return Holding(True, f"{held} MiB")
    if None in own:
        return Holding(None, "nvidia-smi does not tell the memory of its processes")
    if listing.unplaced.intersection(cards):
        return Holding(None, "nvidia-smi lists a process on its cards that the host does not know")
    if not listing.applications and not listing.unplaced:
        used = [listing.used.get(card) for card in cards]
        if None in used or sum(filter(None, used)) >= claim * SHARE:
            return Holding(None, "nvidia-smi of the host lists no process at all, also where cards are in use")
    return Holding(False, f"{held} MiB")


def parse(text: str, containers: Mapping[str, str]) -> Listing | None:
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
    rows = [match for line in lines[:end] if (match := _ROW.match(line))]
    known = {match[1] for match in files if match[2] == "cgroup"}
    return Listing(
        tuple(
            sorted(_applications(rows, files, containers), key=lambda application: (application.card, application.pid))
        ),
        frozenset(row[1] for row in rows if row[2] not in known),
        {match[1]: int(match[2]) for line in lines[:end] if (match := _USED.fullmatch(line))},
    )


def _applications(
    rows: list[re.Match[str]], files: list[re.Match[str]], containers: Mapping[str, str]
) -> Iterator[Application]:
    names = {match[1]: match[3] for match in files if match[2] == "comm"}
    users = {match[1]: match[3] for match in files if match[2] == "user"}
    groups: dict[str, str] = {}
    for match in files:
        if match[2] == "cgroup":
            groups[match[1]] = f"{groups.get(match[1], '')} {match[3]}"
    for row in rows:
        card, pid, memory, name = row.groups()
        if pid in groups:
            ids = [each for each in _ID.findall(groups[pid]) if each in containers]
            container = containers[ids[-1]] if ids else ""
            mib = int(memory) if re.fullmatch("[0-9]{1,9}", memory) else None
            user = users.get(pid, "")
            user = user if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@$-]{0,63}", user) else ""
            yield Application(card, int(pid), _program(name, names.get(pid, "")), container, mib, user)


def _program(shown: str, comm: str) -> str:
    """A program's name: `python3` for `/usr/bin/python3 train.py`; the kernel's name where nvidia-smi shows no name.

    An inventory can list any returned name: a line of at most 128 printable characters.
    """
    words = [] if shown.startswith("[") else shown.split(maxsplit=1)
    name = (words[0].rpartition("/")[2].rstrip(":") if words else "") or comm  # `tmux:` in a list is YAML's mapping
    printable = "".join(letter if letter.isprintable() else "?" for letter in name[:128])
    return printable.strip() or "a program"


# The processes alone, with the names of Docker's containers and of our instances, for a look at a host that asks no
# instance. A Docker that does not run is not asked, so its containers have no names then.
_SCRIPT = rf"""
{SHELL.strip()}
{facts.DOCKER_RUNS.strip()}
names() {{
  timeout {LIMIT} docker ps -a --no-trunc --format '{{{{.ID}}}} {{{{.Names}}}} {{{{.Label "provision.instance"}}}}'
}}
applications
if command -v docker >/dev/null 2>&1 && docker_runs; then names 2>/dev/null </dev/null | head -c 200000; fi
echo end
"""


@cache
def command() -> Run:
    """Return the read-only command whose answer `read` understands."""
    timeout = READ_TIMEOUT + 3 * LIMIT + facts.STARTING
    return look(Script("cards/processes", _SCRIPT), title=TITLE, timeout=timeout, slow=True)


def read(answer: Answer) -> tuple[Listing | None, Mapping[str, str]]:
    """Parse the answer to `command`.

    Args:
        answer: the answer.

    Returns:
        the processes, or None where nvidia-smi lists none; and name of a container -> its instance of provision.
    """
    containers: dict[str, str] = {}
    instances: dict[str, str] = {}
    parts = ""
    for line in answer.text.splitlines():
        words = line.split(" ")
        if words[:2] == ["host", "applications"]:
            parts += words[-1]
        elif len(words) == 3 and _ID.fullmatch(words[0]):
            name = words[1].partition(",")[0][:128]
            containers[words[0]] = name
            instances |= {name: words[2][:128]} if words[2] else {}
    try:
        return parse(parts, containers), instances
    except ValueError:  # the answer was cut inside a part
        return None, instances
