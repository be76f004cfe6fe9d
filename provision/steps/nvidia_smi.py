"""The cards of a host as nvidia-smi lists them, and the card that an index of the inventory means.

Source: fields, rows and exit codes of nvidia-smi, docs/facts.md#nvidia-smi. Its indices may change at each boot, and
the cards behind a missing card move up by one: so a host remembers the UUID of every index (`RECORD`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from provision.steps import instance_paths

RECORD = instance_paths.CARDS
TIMEOUT = 15.0  # seconds; a healthy, loaded driver answers within a second
CORE = "index,uuid,name,driver_version,memory.total"
# A driver refuses the whole query for one unknown field, so fields that may be unknown have a query of their own.
_MORE = "compute_cap,mig.mode.current,mig.mode.pending,persistence_mode"
EXTRA = f"uuid,{_MORE}"
ALL = f"{CORE},{_MORE}"
MOST = 1024  # lines of the record

# Sets `hung` to the id of a process that SIGKILL does not end, else to nothing: such a process hangs in the driver, in
# state D with signal 9 pending (proc(5)). Each further call would hang too and stay until a reboot, so no read calls
# nvidia-smi beside such a process, in a container or not.
STUCK = (
    r"hung=$(grep -lsEz '^Name:.nvidia-smi\s.*State:.D.*Pnd:.[0-9a-f]*[13579bdf]..\s' /proc/[0-9]*/status) || :"
    "\nhung=${hung%%/status*}; hung=${hung##*/}"
)
# Sets `good` to the indices of the cards in `listed`, the output of `nvidia-smi -L`.
GOOD = r"""good=$(echo "$listed" | sed -n 's/^GPU \([0-9]\{1,4\}\):.*UUID: GPU-.*/\1/p' | paste -sd,)"""

# One query asks for all fields. Where that query fails, its two halves follow, both at once; each half answers into the
# pipe of the next. With a lost card a query prints no row at all, so `nvidia-smi -L` names the other cards, and a
# second query asks for these, by index: by UUID nvidia-smi would look at the lost card too (docs/facts.md#nvidia-smi).
# $1 of `smi` is the section, $2 the fields. `mig` passes an answer on; beside a card in MIG mode the list with its MIG
# devices follows, because no query has the devices. `persistence_mode` is the last field, after which no comma comes.
# A process that hangs in a wedged driver keeps its pipe open, so readers stop at `# end` and not at the close.
SCRIPT = f"""
ask() {{ timeout -k 2 "$limit" nvidia-smi "$@" </dev/null 2>&1; }}
rows() {{ f=--query-gpu=$1; shift; ask "$f" --format=csv,noheader,nounits "$@"; }}
smi() {{
  echo "# $1"
  rc=127
  if command -v nvidia-smi >/dev/null 2>&1; then
    rc=0; rows "$2" || rc=$?
    case $1:$rc in gpu-all:* | *:0 | *:14 | *:124 | *:137) ;;
    gpu-extra:15 | gpu-extra:255 | gpu:*) echo
      listed=$({{ ask -L || :; echo '# end'; }} | until_end | head -c 100000)
      {GOOD}
      [ -z "$good" ] || rows "$2" -i "$good" || :
      [ "$1" = gpu-extra ] || echo "${{listed%# end}}" ;;
    esac
  fi
  printf '\n# %s-exit\n%s\n' "$1" "$rc"
}}
until_end() {{ sed '/^# end$/q'; }}
cards() {{
  {STUCK}
  [ -z "$hung" ] || {{
    echo '# gpu-all'; echo "process $hung (nvidia-smi) hangs in the driver, and SIGKILL does not end it"
    printf '# gpu-all-exit\\n124\\n# end\\n'; return
  }}
  core={CORE} more={_MORE}
  smi gpu-all "$core,$more"
  case $rc in
    0 | 124 | 137) echo '# end' ;;
    *) {{ smi gpu-extra "uuid,$more"; echo '# end'; }} | {{ smi gpu "$core"; until_end; }} ;;
  esac
}}
mig() {{
  mode=; while IFS= read -r row; do
    case $row in
      '# end') [ -z "$mode" ] || {{ echo '# mig'; ask -L; }}; echo "$row"; return ;;
      *', Enabled, '*) mode=on ;;
    esac
    printf '%s\\n' "$row"
  done
}}
remembered() {{ grep -E -m {MOST} '^[0-9]{{1,4}} GPU-[0-9A-Za-z-]{{1,64}}$' {RECORD} 2>/dev/null || :; }}
"""

_SLOW = (
    "nvidia-smi does not answer in time (a wedged driver; where it is only slow, switch persistence mode on or raise "
    "nvidia_toolkit.smi_timeout)"
)
ERRORS = {
    2: "nvidia-smi does not know a field: its driver is too old",
    4: "the system does not permit nvidia-smi to use the NVIDIA driver",
    6: "nvidia-smi found no devices",
    9: "the NVIDIA driver is not loaded",
    12: "the library of the NVIDIA driver (libnvidia-ml.so) is not found",
    14: "the infoROM of a GPU is corrupt",
    15: "a GPU is lost: it needs a reset or a reboot",
    17: "the operating system or a cgroup keeps nvidia-smi from the GPUs",
    18: "the driver's library and kernel module differ: reboot the host",
    124: _SLOW,
    127: "nvidia-smi is not installed: the NVIDIA driver is a prerequisite",
    137: _SLOW,  # killed, because the process ignored the first signal
}

_LISTED = re.compile(r"GPU ([0-9]{1,4}): (.{0,200}) \(UUID: (GPU-[0-9A-Za-z-]{1,64})\)")
_UUID = re.compile(r"GPU-[0-9A-Za-z-]{1,64}")
_MIG = re.compile(r" {1,8}MIG (\S{1,40}) +Device +[0-9]{1,4}: \(UUID: (MIG-[0-9A-Za-z/-]{1,100})\)")
_PROFILE = re.compile(r"(?:[0-9]c\.)?[0-9]g\.([0-9]{1,4})gb(?:\+\S{1,20})?")
_OF_PROFILE = 0.95  # docs/facts.md#mig: a device of 5 GB has 4864 MiB
_INDEX = re.compile(r"[0-9]{1,4}")
_BROKEN = re.compile(r"requires reset|is lost", re.IGNORECASE)


@dataclass(frozen=True)
class MigDevice:
    """A part of a card in MIG mode, which a container gets like a card.

    Args:
        uuid: `MIG-...`; a new device gets a new UUID.
        profile: its size in slices and memory, such as `3g.40gb`.
    """

    uuid: str
    profile: str

    @property
    def memory_mib(self) -> int:
        """The least memory in MiB by the name of the profile; 0 for an unknown name."""
        match = _PROFILE.fullmatch(self.profile)
        return int(int(match[1]) * 1024 * _OF_PROFILE) if match else 0


@dataclass(frozen=True)
class Card:
    """One GPU as nvidia-smi sees it.

    Args:
        index: nvidia-smi's index; may change at a boot.
        uuid: `GPU-...`; does not change.
        name: product name.
        driver: version of the driver, such as `590.48.01`.
        compute_cap: compute capability, such as 8.9; 0.0 where unknown.
        memory_mib: total memory in MiB; 0 where unknown.
        mig: whether MIG mode is on (then nobody can use the card as a whole).
        broken: nvidia-smi's text in place of a value, where the card needs a reset before use; else empty.
        persistent: whether the driver stays loaded without a user of the card; None where unknown.
        devices: the MIG devices of the card.
        half_switched: whether a reset of the card or a boot is due, which changes MIG mode.
    """

    index: int
    uuid: str
    name: str
    driver: str
    compute_cap: float
    memory_mib: int
    mig: bool = False
    broken: str = ""
    persistent: bool | None = None
    devices: tuple[MigDevice, ...] = ()
    half_switched: bool = False

    def part(self, device: MigDevice) -> "Card":
        """Return a MIG device of the card as a card: a container gets a device as it gets a card.

        Args:
            device: the device.
        """
        name = f"{self.name} MIG {device.profile}"
        return replace(self, uuid=device.uuid, name=name, memory_mib=device.memory_mib, mig=False, devices=())


FINAL = (0, 124, 137)
"""Exit codes of the query for all fields after which no halves follow: the query answered, or nvidia-smi hangs."""


def halves(rows: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split the output for `ALL` into the output for `CORE` and the output for `EXTRA`.

    Args:
        rows: lines of the output; a line that is no row of a card goes to the first half.
    """
    core, extra = [], []
    for row in rows:
        words = _words(row)
        whole = len(words) == len(ALL.split(","))
        core.append(", ".join(words[:5]) if whole else row)
        extra += [", ".join((words[1], *words[5:]))] if whole else []
    return core, extra


def read(core: Sequence[str], exit_code: int, extra: Iterable[str]) -> tuple[tuple[Card, ...], str]:
    """The cards that nvidia-smi lists, and why cards may be missing; rows count whatever the exit code is.

    Args:
        core: output for `CORE`, followed by the output of `nvidia-smi -L` where that ran too.
        exit_code: exit code of the query for `CORE`.
        extra: output for `EXTRA`; may be empty.
    """
    more = {row[0]: row for row in map(_words, extra) if len(row) == len(EXTRA.split(","))}
    cards: dict[str, Card] = {}
    complaints: list[str] = []
    for line in core:
        card = _card(_words(line), more) or _listed(line)
        if card is not None:
            cards.setdefault(card.uuid, card)
        elif line.strip() and line.strip() not in complaints:
            complaints.append(line.strip())
    return tuple(cards.values()), _complaint(exit_code, " ".join(complaints)[:400], list(cards))


def _words(line: str) -> list[str]:
    return [word.strip() for word in line.split(",")]


def _card(row: Sequence[str], more: Mapping[str, Sequence[str]]) -> Card | None:
    """The card of a row; None for any other line, and for a card whose UUID cannot be read."""
    if len(row) != len(CORE.split(",")):
        return None
    index, uuid, name, driver, memory = row
    if not (_INDEX.fullmatch(index) and _UUID.fullmatch(uuid)):
        return None
    _, capability, mig, pending, persistence = more.get(uuid, ("",) * 5)
    words = (name, driver, memory, capability, mig)
    return Card(
        index=int(index),
        uuid=uuid,
        name=name[:100],
        driver=driver[:40],
        compute_cap=number(capability),
        memory_mib=int(number(memory)),
        mig=mig == "Enabled",
        persistent={"Enabled": True, "Disabled": False}.get(persistence),
        broken=next((word.strip("[]")[:100] for word in words if _BROKEN.search(word)), ""),
        half_switched={mig, pending} == {"Enabled", "Disabled"},
    )


def _listed(line: str) -> Card | None:
    """The card of a line of `nvidia-smi -L`, which has an index, a name and a UUID only."""
    match = _LISTED.fullmatch(line.strip())
    return Card(int(match[1]), match[3], match[2], "", 0.0, 0) if match else None


def is_card_uuid(text: str) -> bool:
    """Whether a text has the form of a card's UUID."""
    return _UUID.fullmatch(text) is not None


def mig_devices(listed: Iterable[str]) -> dict[str, tuple[MigDevice, ...]]:
    """UUID of a card -> its MIG devices, of all cards with such devices.

    Args:
        listed: output of `nvidia-smi -L`, in which the devices of a card follow the card.
    """
    devices: dict[str, tuple[MigDevice, ...]] = {}
    card = ""
    for line in listed:
        if match := _LISTED.fullmatch(line.strip()):
            card = match[3]
        elif card and (match := _MIG.fullmatch(line.rstrip())):
            devices[card] = (*devices.get(card, ()), MigDevice(match[2], match[1]))
    return devices


def with_devices(cards: Iterable[Card], listed: Iterable[str]) -> tuple[Card, ...]:
    """The cards with their MIG devices.

    Args:
        cards: as `read` returns them.
        listed: output of `nvidia-smi -L`; empty where no card is in MIG mode.
    """
    devices = mig_devices(listed)
    return tuple(replace(card, devices=devices.get(card.uuid, ())) for card in cards)


def _complaint(exit_code: int, complaint: str, cards: Sequence[str]) -> str:
    if exit_code:
        reason = ERRORS.get(exit_code, f"nvidia-smi exited {exit_code}")
        return f"{reason}: {complaint}" if complaint else reason
    if complaint:
        return f"nvidia-smi says: {complaint}"
    return "" if cards else "nvidia-smi lists no card"


def number(text: str) -> float:
    """A leading number, or 0.0: `[N/A]`, `[Not Supported]` and `[Unknown Error]` are ordinary answers."""
    match = re.match(r"\d{1,9}(\.\d{1,9})?", text)
    return float(match.group()) if match else 0.0


def parse_record(lines: Iterable[str]) -> dict[int, str]:
    """Index -> UUID, by a host's record.

    Args:
        lines: lines of the record; lines of another form are skipped.
    """
    pairs = (line.split() for line in lines)
    return {int(pair[0]): pair[1] for pair in pairs if len(pair) == 2 and pair[0].isascii() and pair[0].isdigit()}


def record(cards: Iterable[Card], remembered: Mapping[int, str]) -> dict[int, str]:
    """Index -> UUID: the record that a host is to keep, and the meaning of an index of its inventory.

    An index keeps its card wherever nvidia-smi lists the card. A new card takes its index from nvidia-smi, unless
    another present card has that index: then the index of a missing card, else the next free index.

    Args:
        cards: the cards that nvidia-smi lists.
        remembered: the host's record so far; may be empty.
    """
    indices = dict(remembered)
    ordered = sorted(cards, key=lambda card: card.index)
    present = {card.uuid for card in ordered}
    new = [card for card in ordered if card.uuid not in indices.values()]
    free = {index for index, uuid in indices.items() if uuid not in present}
    for card in sorted(new, key=lambda card: card.index in indices and card.index not in free):
        index = card.index
        if index in indices and index not in free:
            index = min(free, default=next(number for number in range(len(indices) + 1) if number not in indices))
        free.discard(index)
        indices[index] = card.uuid
    return indices


def by_index(cards: Sequence[Card], remembered: Mapping[int, str]) -> dict[int, Card]:
    """Index of the inventory -> its card, of all present cards.

    Args:
        cards: the cards that nvidia-smi lists.
        remembered: the host's record.
    """
    by_uuid = {card.uuid: card for card in cards}
    return {index: by_uuid[uuid] for index, uuid in sorted(record(cards, remembered).items()) if uuid in by_uuid}


def named(name: int | str, cards: Sequence[Card], remembered: Mapping[int, str]) -> Card | None:
    """The card, or the MIG device as a card, that a name of the inventory means; None where it is not there.

    Args:
        name: an index of the inventory, or a UUID of a card or of a MIG device.
        cards: the cards that nvidia-smi lists.
        remembered: the host's record.
    """
    if isinstance(name, int):
        return by_index(cards, remembered).get(name)
    parts = (card.part(device) for card in cards for device in card.devices)
    return next((card for card in (*cards, *parts) if card.uuid == name), None)


def record_text(indices: Mapping[int, str]) -> bytes:
    """The record of a host as a file.

    Args:
        indices: index -> UUID.
    """
    rows = "".join(f"{index} {uuid}\n" for index, uuid in sorted(indices.items()))
    return (_HEAD + rows).encode()


_HEAD = (
    "# Written by provision: the card that each index of the inventory means on this host. An index keeps its card\n"
    "# when nvidia-smi numbers the cards otherwise. To take over the indices of nvidia-smi: remove this file, deploy.\n"
    "# index uuid\n"
)
