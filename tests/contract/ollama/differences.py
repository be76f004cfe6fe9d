"""Differences between a target and the contract that stay, each with a reason: `differences.yaml`."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.contract.ollama.cases import FOLDER
from tests.contract.ollama.judge import Difference


@dataclass(frozen=True)
class Listed:
    """A listed difference.

    Attributes:
        case: the name of the case.
        places: the parts of the answer that differ, as `Difference.where` names them; empty for all parts.
        reason: why the difference stays.
    """

    case: str
    places: tuple[str, ...]
    reason: str

    def covers(self, difference: Difference) -> bool:
        """Return whether a difference lies within a listed place."""
        bare = re.sub(r"\[\d+\]", "[]", difference.where)
        return not self.places or any(
            bare == place or bare.startswith((f"{place}.", f"{place}[")) for place in self.places
        )


def load(target: str, path: Path = FOLDER / "differences.yaml") -> list[Listed]:
    """Return the listed differences of a target.

    Args:
        target: "simulator", or "live" for a live server.
        path: the list.

    Raises:
        ValueError: an entry has no reason.
    """
    found = []
    for entry in (yaml.safe_load(path.read_text()) or {}).get(target) or []:
        if not entry.get("reason"):
            raise ValueError(f"{path.name}: {entry['cases']}: no reason")
        found += [Listed(case, tuple(entry.get("places", [])), entry["reason"]) for case in entry["cases"]]
    return found


def complaints(case: str, found: list[Difference], listed: list[Listed]) -> list[str]:
    """Return the differences of a case that no entry lists, and the entries without a difference.

    Args:
        case: the name of the case.
        found: the differences of the case.
        listed: the entries of the target, also of other cases.
    """
    own = [entry for entry in listed if entry.case == case]
    said = [str(each) for each in found if not any(entry.covers(each) for entry in own)]
    for entry in own:
        left = [each for each in found if entry.places or not any(e.covers(each) for e in own if e is not entry)]
        if not any(entry.covers(each) for each in left):
            said.append(f"no difference any more: take the case out of differences.yaml ({entry.reason})")
    return said
