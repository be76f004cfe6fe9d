"""Host facts: what every step may need to know of its host, read by one command.

Sources: os-release(5); proc(5) for cgroups; nvidia-smi, see `smi`.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from provision.command import READ_TIMEOUT, Run, Script, look
from provision.steps import apt_lines, nvidia_smi
from provision.steps.apt_lines import AptLine
from provision.steps.nvidia_smi import Card

STARTING = 20  # seconds that a Docker which is being started is waited for
DOCKER_TIMEOUT = 15  # seconds for it to list containers
MANAGED = "provision.managed"  # label of our containers
OURS = "/opt/provision/"  # our programs

TITLE = "host facts"
CARDS, PUBLISHED, AT_FIRST = "cards", "published", "published at first"
PARTS = frozenset({CARDS, PUBLISHED})
"""The parts of the host facts that cost programs of their own, and that a read may leave out: the cards by nvidia-smi,
and by Docker where our containers are published. `AT_FIRST` is the latter only while the host has no record of its
cards: a guard asks no more."""


@dataclass(frozen=True)
class Fleet:
    """What a run knows of the other hosts when it comes to the balancers.

    Args:
        addresses: host -> the address its instances listen on, for hosts that were read in this run.
        failed: hosts that failed or were not reached in this run.
        partly: hosts that failed, where all or all other instances are known to be as before: those keep their marks.
        unfit: labels (`HOST/INSTANCE`) of instances that did not pass their test in this run.
        drained: label -> what an operator drained, by the balancers that were read in this run.
    """

    addresses: Mapping[str, str] = field(default_factory=dict)
    failed: frozenset[str] = frozenset()
    partly: frozenset[str] = frozenset()
    unfit: frozenset[str] = frozenset()
    drained: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class HostFacts:
    """What is known of a host.

    Args:
        distribution: os-release's ID, such as `debian`.
        version: os-release's VERSION_ID, such as `13`.
        codename: os-release's VERSION_CODENAME, such as `trixie`.
        like: os-release's ID_LIKE, split.
        architecture: dpkg's name for it, such as `amd64`; else uname's.
        cgroup: 1 or 2.
        addresses: the host's own addresses, without prefix length.
        sources: peer as asked for -> the own address by which the host reaches it.
        resolved: peer as asked for -> its address.
        cards: all that nvidia-smi lists, with its own indices; `card` has those of the inventory.
        driver_error: why these may not be all cards, or why there is none; empty where nvidia-smi found no fault.
        remembered: index of the inventory -> UUID of its card, as the host's record has it.
        systemd: whether PID 1 is systemd.
        sources_of_apt: every repository that apt reads, in its order.
        programs: paths of programs that are not ours and have the name of one of ours.
        clock: seconds since 1970 by the host's clock; None where that is not known.
        published: `ADDRESS:PORT` of our containers, also of those that are stopped; None where Docker cannot be asked.
        asked_after: id of the step after which Docker can be asked what is published.
        fleet: what is known of the other hosts.
    """

    distribution: str = ""
    version: str = ""
    codename: str = ""
    like: tuple[str, ...] = ()
    architecture: str = ""
    cgroup: int = 2
    addresses: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    resolved: Mapping[str, str] = field(default_factory=dict)
    cards: tuple[Card, ...] = ()
    driver_error: str = ""
    remembered: Mapping[int, str] = field(default_factory=dict)
    systemd: bool = True
    sources_of_apt: tuple[AptLine, ...] = ()
    programs: tuple[str, ...] = ()
    clock: int | None = None
    published: tuple[str, ...] | None = ()
    asked_after: str = "service:docker"
    fleet: Fleet = field(default_factory=Fleet)

    @property
    def record(self) -> Mapping[int, str]:
        """Index of the inventory -> UUID of its card, which may be gone."""
        return nvidia_smi.record(self.cards, self.remembered)

    @property
    def by_index(self) -> Mapping[int, Card]:
        """Index of the inventory -> its card, of all cards that are there."""
        return nvidia_smi.by_index(self.cards, self.remembered)

    def card(self, index: int) -> Card | None:
        """The card that an index of the inventory means, or None if it is gone or was never there."""
        return self.by_index.get(index)


def live_facts(live: Any) -> HostFacts:
    """The host facts, as the verification's plan read them.

    Args:
        live: testinfra's host, over the verification's backend.
    """
    found: HostFacts = live.backend.facts
    return found


class LateFacts:
    """Host facts that are read again when a step first asks for one: most never do, and nvidia-smi can take seconds.

    Args:
        read: reads them.
        fleet: what is known of the other hosts.
    """

    def __init__(self, read: Callable[[], HostFacts], fleet: Fleet) -> None:
        self._read = read
        self.fleet = fleet

    @cached_property
    def _facts(self) -> HostFacts:
        return self._read()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._facts, name)


# Whether Docker can be asked. To ask a stopped one would start it, where docker.socket listens for it: a read must not.
# One that just starts, as after a boot, is waited for: what is read beside this may find it running.
DOCKER_RUNS = f"""
docker_runs() {{
  [ -d /run/systemd/system ] || return 0
  for _ in $(seq {STARTING}); do
    state=$(systemctl is-active docker.service)
    [ "$state" = activating ] || break
    sleep 1
  done
  case $state in active | reloading) ;; *) return 1 ;; esac
}}
"""
# The programs that a link of ours on PATH would hide, or replace. A link that leads nowhere counts.
PROGRAMS = f"""
programs() {{
  for path in /usr/local/sbin/nginx /usr/local/bin/nginx /usr/sbin/nginx /usr/bin/nginx; do
    if [ -L "$path" ]; then case $(readlink -- "$path") in {OURS}*) continue ;; esac
    elif [ ! -e "$path" ]; then continue
    fi
    echo "$path"
  done
}}
"""
_BINDINGS = "{{range .HostConfig.PortBindings}}{{range .}}{{println .HostIp .HostPort}}{{end}}{{end}}"

# One section per line that starts with `#`; os-release and addresses are plain text, so nothing needs quoting.
# An address as it is written is not looked up: `ip` knows a route to what is one.
_HOST = f"""
sources() {{
{apt_lines.READ.strip()}
}}
{PROGRAMS.strip()}
source_of() {{
  source=$(ip -o route get "$1" 2>/dev/null) || :
  case $source in *' src '*) source=${{source##* src }}; source=${{source%%[ "$nl"]*}} ;; *) source='' ;; esac
}}
nl='
'
limit=$1; shift
"""
_LOOK = """
echo '# clock'; date +%s
echo '# os'; cat /etc/os-release 2>/dev/null || :
echo '# arch'; dpkg --print-architecture 2>/dev/null || uname -m
echo '# cgroup'; if [ -f /sys/fs/cgroup/cgroup.controllers ]; then echo 2; else echo 1; fi
echo '# systemd'; [ -d /run/systemd/system ] && echo yes || echo no
echo '# addresses'; ip -o addr show 2>/dev/null | awk '{print $4}' || :
echo '# apt'; sources
echo '# programs'; programs
for peer in "$@"; do
  address=''
  case $peer in
    *[!0-9.]* | *.*.*.*.* | 0[0-9]* | *.0[0-9]*) ;;
    ?*.?*.?*.?*) source_of "$peer"; [ -z "$source" ] || address=$peer ;;
  esac
  # IPv4 first: instances listen on no other. Another address is named too, so that it can be refused by its name.
  if [ -z "$address" ]; then
    address=$(getent ahostsv4 "$peer" 2>/dev/null | awk 'NR==1{print $1}') || :
    [ -n "$address" ] || address=$(getent ahosts "$peer" 2>/dev/null | awk 'NR==1{print $1}') || :
    source_of "${address:-$peer}"
  fi
  echo '# peer'; printf '%s\\n%s\\n%s\\n' "$peer" "$address" "$source"
done
"""
# A container may go between `ps` and `inspect`: the second attempt lists anew.
_PUBLISHED = f"""
{DOCKER_RUNS.strip()}
published() {{
  ids=$(timeout {DOCKER_TIMEOUT} docker ps -aq --no-trunc --filter label={MANAGED}=1) || return
  case $ids in *[!0-9a-f"$nl"]*) return 1 ;; esac
  [ -z "$ids" ] || timeout {DOCKER_TIMEOUT} docker inspect --type container --format '{_BINDINGS}' $ids
}}
echo '# published'
if [ "$asked" = yes ] || [ ! -s {nvidia_smi.RECORD} ]; then
command -v docker >/dev/null 2>&1 &&
  if docker_runs && {{ found=$(published) || found=$(published); }} 2>/dev/null; then printf '%s\\n' "$found"
  else echo unknown
  fi
else echo unknown
fi
"""


def _script(parts: frozenset[str]) -> str:
    """The script that reads the host itself and these parts."""
    look = _LOOK.strip("\n")
    if parts & {PUBLISHED, AT_FIRST}:
        look += f"\nasked={'yes' if PUBLISHED in parts else 'no'}{_PUBLISHED.rstrip()}"
    if CARDS not in parts:
        return f"{_HOST.strip()}\n{look}\necho '# end'"
    # nvidia-smi is slow where the driver is not kept loaded: it answers into the pipe while the rest is looked at
    beside = f"cards | {{\n{look}\necho '# remembered'; remembered\nuntil_end\n}}"
    return f"{_HOST.strip()}\n{nvidia_smi.SCRIPT.strip()}\n{beside}"


@cache
def command(peers: tuple[str, ...], smi_timeout: float = nvidia_smi.TIMEOUT, parts: frozenset[str] = PARTS) -> Run:
    """The read-only command whose answer `parse` understands.

    Args:
        peers: names or addresses of hosts that the host must be able to reach.
        smi_timeout: seconds that one call of nvidia-smi may take.
        parts: of `PARTS` and `AT_FIRST`, what is read beside the host itself.
    """
    # Where a query fails, its halves are asked for, and where one of those fails the list; each may have to be killed.
    cards = 3 * smi_timeout + 6 if CARDS in parts else 0
    docker = STARTING + 4 * DOCKER_TIMEOUT if parts & {PUBLISHED, AT_FIRST} else 0
    script = Script("host/facts", _script(parts))
    timeout = READ_TIMEOUT + max(cards, docker)
    return look(script, f"{smi_timeout:g}", *peers, title=TITLE, timeout=timeout, slow=bool(parts))


def parse(text: str, before: HostFacts | None = None) -> HostFacts:
    """Host facts from the command's standard output.

    Args:
        text: the output.
        before: what was known before: the parts that were not read stay as they were.

    Raises:
        ValueError: the output is not that of the command.
    """
    sections = _sections(text)
    os_release = _os_release(sections.get("os", [[]])[0])
    peers = [[*peer, "", "", ""][:3] for peer in sections.get("peer", [])]
    return replace(
        before or HostFacts(),
        **_cards(sections),
        **_published(sections),
        distribution=os_release.get("ID", ""),
        version=os_release.get("VERSION_ID", ""),
        codename=os_release.get("VERSION_CODENAME", ""),
        like=tuple(os_release.get("ID_LIKE", "").split()),
        architecture=_first(sections, "arch"),
        cgroup=int(_first(sections, "cgroup") or 2),
        addresses=tuple(line.split("/")[0] for line in sections.get("addresses", [[]])[0] if line),
        sources={peer: source for peer, _, source in peers if source},
        resolved={peer: address for peer, address, _ in peers if address},
        systemd=_first(sections, "systemd") == "yes",
        sources_of_apt=apt_lines.parse(sections.get("apt", [[]])[0]),
        programs=tuple(sections.get("programs", [[]])[0]),
        clock=int(said) if re.fullmatch(r"[0-9]{1,12}", said := _first(sections, "clock")) else None,
    )


def _cards(sections: Mapping[str, list[list[str]]]) -> dict[str, Any]:
    """What the host says of its cards; nothing where it was not asked."""
    if "gpu-exit" not in sections and "gpu-all-exit" not in sections:
        return {}
    code = int(_first(sections, "gpu-all-exit") or 127)
    core, extra = nvidia_smi.halves(sections.get("gpu-all", [[]])[0])
    if "gpu-exit" in sections:
        code = int(_first(sections, "gpu-exit") or 127)
        core, extra = sections.get("gpu", [[]])[0], sections.get("gpu-extra", [[]])[0]
    elif code not in nvidia_smi.FINAL:
        raise ValueError("the answer ends early")
    cards, error = nvidia_smi.read(core, code, extra)
    remembered = nvidia_smi.parse_record(sections.get("remembered", [[]])[0])
    return {"cards": cards, "driver_error": error, "remembered": remembered}


def _sections(text: str) -> dict[str, list[list[str]]]:
    sections: dict[str, list[list[str]]] = {}
    current: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            current = []
            sections.setdefault(line[2:].strip(), []).append(current)
        else:
            current.append(line)
    if not sections.keys() & {"end", "gpu-exit"}:
        raise ValueError("the answer ends early")
    return sections


def _published(sections: Mapping[str, list[list[str]]]) -> dict[str, Any]:
    """The bindings that name both address and port; nothing where Docker was not asked."""
    if "published" not in sections:
        return {}
    lines = sections["published"][0]
    pairs = (line.split() for line in lines)
    known = tuple(sorted({":".join(pair) for pair in pairs if len(pair) == 2}))
    return {"published": None if "unknown" in lines else known}


def _first(sections: Mapping[str, list[list[str]]], name: str) -> str:
    lines = sections.get(name, [[]])[0]
    return lines[0].strip() if lines else ""


def _os_release(lines: list[str]) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def dumps(value: object) -> str:
    """JSON that is the same for equal values: for labels and comparisons."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
