"""A finding: the verdict of a check about one host, with evidence and cure."""

import shlex
from dataclasses import dataclass
from typing import Literal

from provision.inventory import Host, Inventory

Verdict = Literal["pass", "warn", "fail"]
WORST_FIRST: tuple[Verdict, ...] = ("fail", "warn", "pass")


@dataclass(frozen=True)
class Finding:
    """The verdict of a check.

    Args:
        verdict: `fail` for a host on which a deploy fails or instances suffer, `warn` for a risk.
        says: one sentence.
        evidence: the host's own words or figures; may be empty.
        cure: the command to type; empty with the verdict `pass`.
        here: whether the command is for this machine; otherwise for a root shell of the host.
        check: the name of the check.
    """

    verdict: Verdict
    says: str
    evidence: str = ""
    cure: str = ""
    here: bool = False
    check: str = ""


def good(says: str, evidence: str = "") -> Finding:
    """Return a passed check.

    Args:
        says: one sentence.
        evidence: the host's own words or figures.
    """
    return Finding("pass", says, evidence)


def risk(says: str, cure: str, evidence: str = "", *, here: bool = False) -> Finding:
    """Return a warning.

    Args:
        says: one sentence.
        cure: the command to type.
        evidence: the host's own words or figures.
        here: whether the command is for this machine.
    """
    return Finding("warn", says, evidence, cure, here)


def bad(says: str, cure: str, evidence: str = "", *, here: bool = False) -> Finding:
    """Return a failed check.

    Args:
        says: one sentence.
        cure: the command to type.
        evidence: the host's own words or figures.
        here: whether the command is for this machine.
    """
    return Finding("fail", says, evidence, cure, here)


def ours(inventory: Inventory, host: Host, *words: str) -> str:
    """Return a command of `provision` for one host, as an operator types the command.

    Args:
        inventory: the inventory.
        host: the host.
        words: the command and its options.
    """
    return shlex.join(["provision", *words, "-i", inventory.path, "-l", host.name])
