"""The load of a host's cards: memory in use, utilisation, temperature, uncorrected errors, and a lowered clock.

Sources: fields of nvidia-smi and the reasons for a lowered clock, docs/facts.md#nvidia-smi.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from provision.command import READ_TIMEOUT, Answer, Run, Script, look
from provision.steps import nvidia_smi

TITLE = "load of the cards"
FIELDS = ("uuid", "name", "memory.used", "memory.total", "utilization.gpu", "temperature.gpu")
ERRORS = ("uuid", "ecc.errors.uncorrected.volatile.total")
# A driver refuses a query for a field that the driver does not know, so the second name is the name of older drivers.
CLOCKS = (("uuid", "clocks_event_reasons.active"), ("uuid", "clocks_throttle_reasons.active"))
SLOWED = {0x40: "too hot (hardware)", 0x20: "too hot (software)", 0x80: "power brake"}
"""Bits of the reasons for a lowered clock that ask for an operator; the rest is usual, such as an idle card."""
NEEDS_RESET = "requires reset", "is lost"

# With a lost card a query prints no row, so the other cards are asked by index.
_SCRIPT = rf"""
limit=$1
ask() {{ timeout -k 2 "$limit" nvidia-smi "$@" </dev/null 2>&1; }}
until_end() {{ sed '/^# end$/q'; }}
fields() {{ rc=0; ask "--query-gpu=$1" --format=csv,noheader,nounits ${{good:+-i "$good"}} || rc=$?; }}
load() {{
  {nvidia_smi.STUCK}
  [ -z "$hung" ] || {{ printf '# exit\n124\n'; return; }}
  command -v nvidia-smi >/dev/null 2>&1 || {{ printf '# exit\n127\n'; return; }}
  good=
  echo '# load'; fields {",".join((*FIELDS, *ERRORS[1:], CLOCKS[0][1]))}; whole=$rc
  case $rc in 0 | 124 | 137) printf '\n# exit\n%s\n' "$rc"; return ;; esac
  listed=$({{ ask -L || :; echo '# end'; }} | until_end | head -c 100000)
  {nvidia_smi.GOOD}
  echo '# some'; fields {",".join(FIELDS)}
  [ "$whole" = 2 ] && whole=$rc
  printf '\n# exit\n%s\n' "$whole"
  echo '# errors'; fields {",".join(ERRORS)}
  echo '# clocks'; fields {",".join(CLOCKS[0])}
  [ "$rc" != 2 ] || {{ echo '# clocks'; fields {",".join(CLOCKS[1])}; }}
}}
{{ load; echo; echo '# end'; }} | until_end
"""


@dataclass(frozen=True)
class CardLoad:
    """The load of one card. None stands for an unknown value.

    Args:
        uuid: `GPU-...`.
        name: product name.
        used_mib: memory in use, in MiB.
        memory_mib: total memory in MiB.
        busy: share of the last second in which the card computed, in percent.
        celsius: temperature.
        errors: uncorrected memory errors since the driver was loaded.
        slowed: why the clock of the card is lowered, if an operator should know; else empty.
        broken: nvidia-smi's text in place of a value, where the card needs a reset before use; else empty.
    """

    uuid: str
    name: str = ""
    used_mib: int | None = None
    memory_mib: int | None = None
    busy: int | None = None
    celsius: int | None = None
    errors: int | None = None
    slowed: str = ""
    broken: str = ""


@dataclass(frozen=True)
class Load:
    """The load of all cards of a host.

    Args:
        cards: UUID -> load, in the order of nvidia-smi.
        error: why cards may be missing; empty where nvidia-smi found no fault.
    """

    cards: Mapping[str, CardLoad]
    error: str = ""


@cache
def command(smi_timeout: float = nvidia_smi.TIMEOUT) -> Run:
    """Return the read-only command whose answer `read` understands.

    Args:
        smi_timeout: seconds that one call of nvidia-smi may take.
    """
    timeout = READ_TIMEOUT + 3 * (smi_timeout + 2)
    return look(Script("cards/load", _SCRIPT), f"{smi_timeout:g}", title=TITLE, timeout=timeout, slow=True)


def read(answer: Answer) -> Load:
    """Parse the answer to `command`. An answer that ends early has the values that came.

    Args:
        answer: the answer.
    """
    sections = _sections(answer.text.splitlines())
    values: dict[str, dict[str, str]] = {}
    whole = (*FIELDS, *ERRORS[1:], CLOCKS[0][1])
    for section, names in (("load", whole), ("some", FIELDS), ("errors", ERRORS), ("clocks", CLOCKS[0])):
        for line in sections.get(section, ()):
            words = [word.strip()[:100] for word in line.split(",")]
            if len(words) == len(names) and nvidia_smi.is_card_uuid(words[0]):
                values.setdefault(words[0], {}).update(zip(names, words, strict=True))
    code = (sections.get("exit") or ["124"])[0].strip()
    return Load({uuid: _card(uuid, row) for uuid, row in values.items()}, _error(code, bool(values)))


def _error(code: str, listed: bool) -> str:
    if code == "0":
        return "" if listed else "nvidia-smi lists no card"
    number = int(code) if code.isdecimal() and len(code) < 4 else 124
    return nvidia_smi.ERRORS.get(number, f"nvidia-smi exited {number}")


def _card(uuid: str, row: Mapping[str, str]) -> CardLoad:
    return CardLoad(
        uuid=uuid,
        name=row.get("name", ""),
        used_mib=_count(row.get("memory.used")),
        memory_mib=_count(row.get("memory.total")),
        busy=_count(row.get("utilization.gpu")),
        celsius=_count(row.get("temperature.gpu")),
        errors=_count(row.get(ERRORS[1])),
        slowed=_slowed(row.get(CLOCKS[0][1], "")),
        broken=_broken(row.values()),
    )


def _broken(words: Iterable[str]) -> str:
    return next((word.strip("[]") for word in words if any(text in word.lower() for text in NEEDS_RESET)), "")


def _slowed(mask: str) -> str:
    """Return the reasons in a bit mask such as `0x0000000000000040`."""
    try:
        bits = int(mask, 16) if mask.startswith("0x") else 0
    except ValueError:
        return ""
    return ", ".join(words for bit, words in SLOWED.items() if bits & bit)


def _count(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None


def _sections(lines: Sequence[str]) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith("# "):
            current = sections.setdefault(line[2:].strip(), [])
        elif line.strip():
            current.append(line)
    return sections
