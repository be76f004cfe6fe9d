"""Host facts: properties of a host for any step, read by one command.

Sources: os-release(5); proc(5) for cgroups; nvidia-smi, see `smi`.
"""

import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

from provision.command import READ_TIMEOUT, Run, Script, look
from provision.steps import apt_lines, nvidia_smi
from provision.steps.apt_lines import AptLine
from provision.steps.loading import Known
from provision.steps.nginx_paths import PROGRAMS as PLACES_ON_PATH
from provision.steps.nvidia_smi import Card

STARTING = 20  # seconds to wait while Docker starts
DOCKER_TIMEOUT = 15  # seconds for Docker to list containers
MANAGED = "provision.managed"  # label of our containers
OURS = "/opt/provision/"  # our programs
INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # 15 is the kernel's limit (IFNAMSIZ)

TITLE = "host facts"
CARDS, PUBLISHED, AT_FIRST = "cards", "published", "published at first"
PARTS = frozenset({CARDS, PUBLISHED})
"""Costly parts of the host facts, with programs of their own, which a read may leave out: the cards, by nvidia-smi,
and the addresses on which Docker publishes our containers. `AT_FIRST` is `PUBLISHED` only while the host has no record
of its cards: a guard asks no more."""


@dataclass(frozen=True)
class Attachment:
    """The place of a running container of ours in one of Docker's networks.

    Args:
        container: name of the container.
        address: the container's own IPv4 address.
        gateway: the address of the host in the network, which is that of the bridge.
    """

    container: str
    address: str
    gateway: str


@dataclass(frozen=True)
class HostFacts:
    """The host facts.

    Args:
        distribution: os-release's ID, such as `debian`.
        version: os-release's VERSION_ID, such as `13`.
        codename: os-release's VERSION_CODENAME, such as `trixie`.
        like: os-release's ID_LIKE, split.
        architecture: dpkg's name of the architecture, such as `amd64`; else uname's.
        cgroup: 1 or 2.
        addresses: the host's own addresses, without prefix length.
        interfaces: the host's own address -> the name of its interface.
        sources: peer, as asked for -> the host's own address on the route to the peer.
        resolved: peer, as asked for -> its address.
        cards: all cards that nvidia-smi lists, with its own indices; `card` takes a name of the inventory.
        driver_error: why cards may be missing from the list, or why it is empty; empty where nvidia-smi found no fault.
        remembered: index of the inventory -> UUID of its card, from the host's record.
        systemd: whether PID 1 is systemd.
        sources_of_apt: every repository that apt reads, in its order.
        programs: paths of foreign programs that have the name of a program of ours.
        clock: seconds since 1970 by the host's clock; None where unknown.
        published: `ADDRESS:PORT` of our containers, also of stopped containers; None where Docker cannot be asked.
        asked_after: id of the step after which Docker can be asked for published ports.
        attached: the places of our running containers in Docker's networks, as far as known.
        foreign: UUID of a card -> MiB that processes outside of our containers hold there, as far as known.
        foreign_known: whether nvidia-smi told the processes; also True where nobody asked.
        models: instance -> its models, of the instances that take a proposal of the estimate, as far as asked.
    """

    distribution: str = ""
    version: str = ""
    codename: str = ""
    like: tuple[str, ...] = ()
    architecture: str = ""
    cgroup: int = 2
    addresses: tuple[str, ...] = ()
    interfaces: Mapping[str, str] = field(default_factory=dict)
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
    attached: tuple[Attachment, ...] = ()
    foreign: Mapping[str, int] = field(default_factory=dict)
    foreign_known: bool = True
    models: Mapping[str, tuple[Known, ...]] = field(default_factory=dict)

    @property
    def bridges(self) -> tuple[str, ...]:
        """The interfaces that lead to our running containers, each once, in the order of their names."""
        names = {self.interfaces.get(place.gateway, "") for place in self.attached}
        return tuple(sorted(name for name in names if INTERFACE.fullmatch(name)))

    @property
    def record(self) -> Mapping[int, str]:
        """Index of the inventory -> UUID of its card, also of a missing card."""
        return nvidia_smi.record(self.cards, self.remembered)

    @property
    def by_index(self) -> Mapping[int, Card]:
        """Index of the inventory -> its card, of all present cards."""
        return nvidia_smi.by_index(self.cards, self.remembered)

    @property
    def healthy(self) -> frozenset[str]:
        """UUIDs of the present cards that need no reset, and of the MIG devices of these cards."""
        well = [card for card in self.cards if not card.broken]
        return frozenset(uuid for card in well for uuid in (card.uuid, *(device.uuid for device in card.devices)))

    @property
    def present(self) -> frozenset[str]:
        """UUIDs of all present cards and MIG devices."""
        return frozenset(uuid for card in self.cards for uuid in (card.uuid, *(each.uuid for each in card.devices)))

    def card(self, name: int | str) -> Card | None:
        """The card, or the MIG device as a card, that a name of the inventory means; None if it is not there.

        Args:
            name: an index, or a UUID of a card or of a MIG device.
        """
        return nvidia_smi.named(name, self.cards, self.remembered)


def live_facts(live: Any) -> HostFacts:
    """The host facts, as the verification's plan read them.

    Args:
        live: testinfra's host, over the verification's backend.
    """
    facts: HostFacts = live.backend.facts
    return facts


class LateFacts:
    """Host facts, read again when a step first asks for a fact: most never do, and nvidia-smi can take seconds.

    Args:
        read: reads the host facts.
    """

    def __init__(self, read: Callable[[], HostFacts]) -> None:
        self._read = read

    @cached_property
    def _facts(self) -> HostFacts:
        return self._read()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._facts, name)


# Whether Docker can be asked. A question to a stopped Docker would start Docker where docker.socket listens, and a read
# must not start anything. The script waits while Docker starts, as after a boot: the exec's later reads may find Docker
# running.
DOCKER_RUNS = f"""
docker_runs() {{
  [ -d /run/systemd/system ] || return 0
  for _ in $(seq $(({STARTING} * ${{patience:-1}}))); do
    state=$(systemctl is-active docker.service)
    [ "$state" = activating ] || break
    sleep 1
  done
  case $state in active | reloading) ;; *) return 1 ;; esac
}}
"""
# The programs that our link on PATH would hide or replace. A dangling link counts.
PROGRAMS = f"""
programs() {{
  for path in {" ".join(PLACES_ON_PATH)}; do
    if [ -L "$path" ]; then case $(readlink -- "$path") in {OURS}*) continue ;; esac
    elif [ ! -e "$path" ]; then continue
    fi
    echo "$path"
  done
}}
"""
# A line of two words for a published port, and of three words for a network of a running container.
_BINDINGS = (
    "{{range .HostConfig.PortBindings}}{{range .}}{{println .HostIp .HostPort}}{{end}}{{end}}"
    "{{$name := .Name}}{{range .NetworkSettings.Networks}}{{println $name .IPAddress .Gateway}}{{end}}"
)

# One section per line that starts with `#`; os-release and addresses are plain text, so nothing needs quoting.
# A literal address needs no lookup: `ip` knows a route to it.
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
echo '# addresses'; ip -o addr show 2>/dev/null | awk '{print $4, $2}' || :
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
    """The script that reads the host itself and the given parts."""
    look = _LOOK.strip("\n")
    if parts & {PUBLISHED, AT_FIRST}:
        look += f"\nasked={'yes' if PUBLISHED in parts else 'no'}{_PUBLISHED.rstrip()}"
    if CARDS not in parts:
        return f"{_HOST.strip()}\n{look}\necho '# end'"
    # nvidia-smi is slow where the driver is not kept loaded: its answer waits in the pipe for the other reads
    beside = f"cards | mig | {{\n{look}\necho '# remembered'; remembered\nuntil_end\n}}"
    return f"{_HOST.strip()}\n{nvidia_smi.SCRIPT.strip()}\n{beside}"


@cache
def command(peers: tuple[str, ...], smi_timeout: float = nvidia_smi.TIMEOUT, parts: frozenset[str] = PARTS) -> Run:
    """The read-only command whose answer `parse` understands.

    Args:
        peers: names or addresses of hosts, which the host must be able to reach.
        smi_timeout: seconds that one call of nvidia-smi may take.
        parts: members of `PARTS` and `AT_FIRST` to read beside the host itself.
    """
    # Where a query fails, its two halves follow; where a half fails, the list and a third query. Each may have to be
    # killed.
    cards = 4 * smi_timeout + 8 if CARDS in parts else 0
    docker = STARTING + 4 * DOCKER_TIMEOUT if parts & {PUBLISHED, AT_FIRST} else 0
    script = Script("host/facts", _script(parts))
    timeout = READ_TIMEOUT + max(cards, docker)
    return look(script, f"{smi_timeout:g}", *peers, title=TITLE, timeout=timeout, slow=bool(parts))


def parse(text: str, before: HostFacts | None = None) -> HostFacts:
    """Host facts from the command's standard output.

    Args:
        text: the output.
        before: the facts known before; unread parts stay the same.

    Raises:
        ValueError: the output is not from the command.
    """
    sections = _sections(text)
    os_release = _os_release(sections.get("os", [[]])[0])
    peers = [[*peer, "", "", ""][:3] for peer in sections.get("peer", [])]
    pairs = (line.partition(" ")[::2] for line in sections.get("addresses", [[]])[0] if line)
    own = [(address.split("/")[0], name.strip().partition("@")[0]) for address, name in pairs]
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
        addresses=tuple(address for address, _ in own),
        interfaces={address: name for address, name in own if name},
        sources={peer: source for peer, _, source in peers if source},
        resolved={peer: address for peer, address, _ in peers if address},
        systemd=_first(sections, "systemd") == "yes",
        sources_of_apt=apt_lines.parse(sections.get("apt", [[]])[0]),
        programs=tuple(sections.get("programs", [[]])[0]),
        clock=int(clock) if re.fullmatch(r"[0-9]{1,12}", clock := _first(sections, "clock")) else None,
    )


def _cards(sections: Mapping[str, list[list[str]]]) -> dict[str, Any]:
    """The host's answer about its cards; empty where nobody asked."""
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
    cards = nvidia_smi.with_devices(cards, sections.get("mig", [[]])[0])
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
    """The bindings with both an address and a port, and the places in networks; empty where nobody asked Docker."""
    if "published" not in sections:
        return {}
    lines = sections["published"][0]
    words = [line.split() for line in lines]
    known = tuple(sorted({":".join(pair) for pair in words if len(pair) == 2}))
    return {"published": None if "unknown" in lines else known, "attached": attachments(words)}


def attachments(places: Iterable[Sequence[str]]) -> tuple[Attachment, ...]:
    """Return the places of containers in networks; what is no place with two IPv4 addresses is left out.

    Args:
        places: name, address and gateway of each place. A stopped container has no addresses.
    """
    whole = {(name.lstrip("/"), *addresses) for name, *addresses in filter(None, places) if len(addresses) == 2}
    return tuple(Attachment(*place) for place in sorted(whole) if all(map(_is_ipv4, place[1:])))


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _first(sections: Mapping[str, list[list[str]]], name: str) -> str:
    lines = sections.get(name, [[]])[0]
    return lines[0].strip() if lines else ""


def _os_release(lines: list[str]) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


def dumps(value: object) -> str:
    """JSON that is the same for equal values: for labels and comparisons."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
