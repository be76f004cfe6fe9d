"""All checks of one host, in one exec."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from provision.command import Answer, Run
from provision.doctor import login
from provision.doctor.check import BY_HAND, Check, Look, Subject
from provision.doctor.checks import CHECKS
from provision.doctor.finding import WORST_FIRST, Finding, Verdict, bad
from provision.errors import FactError, HostError
from provision.inventory import Host, Inventory, Mask
from provision.plan import planner, role_interface
from provision.ssh.transport import Transport

UNREAD = "host facts"


@dataclass(frozen=True)
class Diagnosis:
    """All findings about one host.

    Args:
        host: name of the host.
        findings: in the order of the checks.
        left_out: names of the checks that could not be made.
        seconds: the time spent on the host.
    """

    host: str
    findings: tuple[Finding, ...]
    left_out: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """The worst verdict."""
        found = {finding.verdict for finding in self.findings}
        return next((verdict for verdict in WORST_FIRST if verdict in found), "pass")

    def count(self, verdict: Verdict) -> int:
        """Return the number of findings with a verdict."""
        return sum(finding.verdict == verdict for finding in self.findings)


def examine(
    host: Host,
    inventory: Inventory,
    session: Transport,
    clock: Callable[[], float] = time.time,
    checks: Sequence[Check] = CHECKS,
) -> Diagnosis:
    """Examine one host. Changes nothing, and takes no lock. An unreachable host is a finding.

    Args:
        host: the host.
        inventory: the whole inventory.
        session: the connection.
        clock: returns the seconds since 1970 on this machine.
        checks: the checks.
    """
    begin = time.monotonic()
    looks = [(check, look) for check in checks if (look := check.look(host, inventory)) is not None]
    facts = role_interface.facts_command(host, inventory)
    reads = sorted(
        dict.fromkeys([facts, *(read for _, look in looks for read in look.reads)]), key=lambda read: not read.slow
    )
    try:
        session.begin()
        asked = clock()
        answers = dict(zip(reads, session.batch(reads, stop=False), strict=True))
        subject = Subject(host, inventory, planner.host_facts(answers), asked, clock())
        findings = [finding for check, look in looks for finding in _findings(check, look, answers, subject)]
        left_out: tuple[str, ...] = ()
    except FactError as error:
        findings = [dataclasses.replace(bad(error.message, BY_HAND), check=UNREAD)]
        left_out = tuple(check.name for check, _ in looks)
    except HostError as error:
        findings = [*login.of_error(error, host, inventory)]
        made = {finding.check for finding in findings}
        left_out = tuple(check.name for check, _ in looks if check.name not in made)
    hide = Mask(host.secrets())
    return Diagnosis(host.name, tuple(_masked(found, hide) for found in findings), left_out, time.monotonic() - begin)


def _findings(check: Check, look: Look, answers: dict[Run, Answer], subject: Subject) -> Sequence[Finding]:
    return [*check.findings(look, [answers[read] for read in look.reads], subject)]


def _masked(finding: Finding, hide: Mask) -> Finding:
    return dataclasses.replace(
        finding, says=hide(finding.says), evidence=hide(finding.evidence), cure=hide(finding.cure)
    )
