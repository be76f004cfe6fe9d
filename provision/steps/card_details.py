"""The details of a host's cards beside the host facts: free memory, ECC, power, MIG devices, and the kernel's reports.

Sources: fields of nvidia-smi, its list of MIG devices, and reports of Xid errors, docs/facts.md#nvidia-smi and
docs/facts.md#mig.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from provision.command import READ_TIMEOUT, Answer, Run, Script, look
from provision.steps import nvidia_smi
from provision.steps.nvidia_smi import MigDevice

TITLE = "details of the cards"
MOST = 50  # reports of the kernel to read, the latest
REPORTS = 10  # seconds for the kernel's log

# A driver refuses a whole query for one field that the driver does not know: then each group has a query of its own.
GROUPS = (
    ("uuid", "pci.bus_id", "memory.used", "memory.free"),
    ("uuid", "power.limit", "ecc.mode.current", "ecc.errors.uncorrected.volatile.total", "compute_mode"),
    ("uuid", "mig.mode.current", "mig.mode.pending"),
)
LATE = ("uuid", "gpu_recovery_action")  # a field of driver 570
ALL = ("uuid", *(name for group in GROUPS for name in group[1:]))

# With a lost card a query prints no row, so the other cards are asked by index. `listed` has the MIG devices too.
_SCRIPT = rf"""
limit=$1
ask() {{ timeout -k 2 "$limit" nvidia-smi "$@" </dev/null 2>&1; }}
until_end() {{ sed '/^# end$/q'; }}
fields() {{
  rc=0; ask "--query-gpu=$1" --format=csv,noheader,nounits ${{good:+-i "$good"}} || rc=$?
  printf '\n# exit\n%s\n' "$rc"
}}
details() {{
  {nvidia_smi.STUCK}
  [ -z "$hung" ] || {{ echo '# hangs'; echo '# end'; return; }}
  command -v nvidia-smi >/dev/null 2>&1 || {{ echo '# end'; return; }}
  rc=0 good=
  listed=$({{ ask -L || echo "# code $?"; echo '# end'; }} | until_end | head -c 100000)
  case $listed in *'# code 124'* | *'# code 137'*) echo '# hangs'; echo '# end'; return ;; esac
  echo '# listed'; printf '%s\n' "${{listed%# end}}" | grep -v '^# '
  case $listed in *'# code '*) {nvidia_smi.GOOD} ;; esac
  echo '# all'; fields {",".join(ALL)}
  [ "$rc" != 2 ] || {{
    {"; ".join(f"echo '# {number}'; fields {','.join(group)}" for number, group in enumerate(GROUPS))}
  }}
  case $rc in 124 | 137) ;; *) echo '# late'; fields {",".join(LATE)} ;; esac
  echo '# end'
}}
reports() {{
  {{ timeout {REPORTS} journalctl -q -k -b --no-pager -o short-iso -g 'NVRM: Xid' -n {MOST} ||
    timeout {REPORTS} dmesg --time-format iso; }} 2>/dev/null </dev/null |
    grep -aF 'NVRM: Xid' | tail -n {MOST} | cut -c1-400
}}
details | {{ echo '# reports'; reports; until_end; }}
"""


@dataclass(frozen=True)
class Report:
    """An Xid error: a report of the driver about a card, in the kernel's log since the boot.

    Args:
        time: time of the report, as the log shows it; empty where unknown.
        bus_id: PCI address of the card, such as `0000:01:00`.
        xid: number of the error, such as 79.
        text: the driver's own words.
    """

    time: str
    bus_id: str
    xid: int
    text: str


@dataclass(frozen=True)
class CardDetails:
    """The details of one card. None and an empty text stand for an unknown value.

    Args:
        bus_id: PCI address by nvidia-smi, such as `00000000:01:00.0`.
        used_mib: memory in use, in MiB.
        free_mib: free memory in MiB; total memory also has a reserved part.
        power_limit_w: limit of the power in watts.
        ecc: whether ECC is on; None where the card has no ECC.
        ecc_errors: uncorrected errors since the driver was loaded.
        compute_mode: `Default`, or a mode in which a card takes one process or none.
        mig: whether MIG mode is on; None where the card has no MIG.
        mig_pending: whether MIG mode is on after the card's next reset.
        recovery: the driver's advice, such as `Reset` or `Reboot`; empty for none.
        devices: the MIG devices of the card.
        reports: Xid errors of the card, oldest first.
    """

    bus_id: str = ""
    used_mib: int | None = None
    free_mib: int | None = None
    power_limit_w: float | None = None
    ecc: bool | None = None
    ecc_errors: int | None = None
    compute_mode: str = ""
    mig: bool | None = None
    mig_pending: bool | None = None
    recovery: str = ""
    devices: tuple[MigDevice, ...] = ()
    reports: tuple[Report, ...] = ()


@dataclass(frozen=True)
class Details:
    """The details of all cards of a host.

    Args:
        cards: UUID -> details.
        reports: Xid errors of cards that nvidia-smi does not list.
    """

    cards: Mapping[str, CardDetails] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()

    def of(self, uuid: str) -> CardDetails:
        """Return the details of a card; unknown values for a card without details."""
        return self.cards.get(uuid, CardDetails())


@cache
def command(smi_timeout: float = nvidia_smi.TIMEOUT) -> Run:
    """Return the read-only command whose answer `read` understands.

    Args:
        smi_timeout: seconds that one call of nvidia-smi may take.
    """
    calls = 3 + len(GROUPS)
    timeout = READ_TIMEOUT + 2 * REPORTS + calls * (smi_timeout + 2)
    return look(Script("cards/details", _SCRIPT), f"{smi_timeout:g}", title=TITLE, timeout=timeout, slow=True)


def read(answer: Answer) -> Details:
    """Parse the answer to `command`. An answer that ends early has what came: each value may be unknown.

    Args:
        answer: the answer.
    """
    sections = _sections(answer.text.splitlines())
    values = _values(sections)
    reports = tuple(filter(None, map(_report, sections.get("reports", ()))))
    devices = nvidia_smi.mig_devices(sections.get("listed", ()))
    cards = {uuid: _card(row, devices.get(uuid, ()), reports) for uuid, row in values.items()}
    known = {report for card in cards.values() for report in card.reports}
    return Details(cards, tuple(report for report in reports if report not in known))


def _sections(lines: Iterable[str]) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("# "):
            current = sections.setdefault(line[2:].strip(), [])
        elif line.strip():
            current.append(line)
    return sections


def _values(sections: Mapping[str, list[str]]) -> dict[str, dict[str, str]]:
    """Return UUID -> field -> value, of all rows with as many values as their query has fields."""
    values: dict[str, dict[str, str]] = {}
    groups = ((str(number), group) for number, group in enumerate(GROUPS))
    queries: list[tuple[str, Sequence[str]]] = [("all", ALL), *groups, ("late", LATE)]
    for section, names in queries:
        for line in sections.get(section, ()):
            words = [word.strip()[:100] for word in line.split(",")]
            if len(words) == len(names) and nvidia_smi.is_card_uuid(words[0]):
                values.setdefault(words[0], {}).update(zip(names, words, strict=True))
    return values


def _card(row: Mapping[str, str], devices: tuple[MigDevice, ...], reports: Iterable[Report]) -> CardDetails:
    place = _place(bus_id := row.get("pci.bus_id", ""))
    recovery = row.get("gpu_recovery_action", "")
    return CardDetails(
        bus_id=bus_id if place else "",
        used_mib=_count(row.get("memory.used")),
        free_mib=_count(row.get("memory.free")),
        power_limit_w=_number(row.get("power.limit")),
        ecc=_switch(row.get("ecc.mode.current")),
        ecc_errors=_count(row.get("ecc.errors.uncorrected.volatile.total")),
        compute_mode="" if _is_no_value(mode := row.get("compute_mode", "")) else mode,
        mig=_switch(row.get("mig.mode.current")),
        mig_pending=_switch(row.get("mig.mode.pending")),
        recovery="" if _is_no_value(recovery) or recovery == "None" else recovery,
        devices=devices,
        reports=tuple(report for report in reports if place and _place(report.bus_id) == place),
    )


def _switch(text: str | None) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(text or "")


_NUMBER = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def _number(text: str | None) -> float | None:
    return float(text) if text and _NUMBER.fullmatch(text) else None


def _count(text: str | None) -> int | None:
    number = _number(text)
    return None if number is None else int(number)


def _is_no_value(text: str) -> bool:
    return not text or text.startswith("[")


_BUS = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-9a-f])?", re.IGNORECASE)
_REPORT = re.compile(
    r"(?P<begin>.{0,200}?)NVRM: Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})"
    r"(?:\.[0-9a-f])?\): (?P<xid>[0-9]{1,4})(?![0-9])(?:, ?(?P<text>.*))?"
)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.,+-]{5,30}Z?")


def _place(bus_id: str) -> tuple[int, ...]:
    """Return domain, bus and device: nvidia-smi writes the domain with eight digits, the kernel with four."""
    match = _BUS.fullmatch(bus_id)
    return tuple(int(part, 16) for part in match.groups()) if match else ()


def _report(line: str) -> Report | None:
    match = _REPORT.search(line)
    if match is None:
        return None
    time = (match["begin"].split() or [""])[0]
    text = (match["text"] or "").strip()[:200]
    return Report(time if _TIME.fullmatch(time) else "", match["bus"].lower(), int(match["xid"]), text)
