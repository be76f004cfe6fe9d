"""A check of `doctor`: reads, and two pure functions. A check runs nothing: `examine` sends all reads in one exec."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from provision.command import Answer, Run
from provision.doctor.finding import Finding, bad, risk
from provision.inventory import Host, Inventory
from provision.steps.base import BlockedError, State, UnreadableError
from provision.steps.facts import HostFacts

GARBLED = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors of a parser that met an answer of another form."""
BY_HAND = "journalctl -b -p err --no-pager | tail"
"""Shows the errors of a host that could not answer a read."""


@dataclass(frozen=True)
class Subject:
    """What a judgement knows beside the state.

    Args:
        host: the host.
        inventory: the whole inventory.
        facts: the host facts.
        asked: this machine's clock before the read, in seconds since 1970.
        answered: this machine's clock after the read, in seconds since 1970.
    """

    host: Host
    inventory: Inventory
    facts: HostFacts
    asked: float = 0.0
    answered: float = 0.0


@dataclass(frozen=True)
class Look:
    """The reads of a check on one host.

    Args:
        reads: read-only commands; several checks may share a command.
        parse: pure; turns the answers, in the order of `reads`, into the state. Raises as `Fact.parse` does.
    """

    reads: tuple[Run, ...] = ()
    parse: Callable[[Sequence[Answer]], State] = lambda answers: {}


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: the name in the report.
        look: makes the reads for a host; returns None where the check does not concern the host.
        judge: pure; turns the state into findings. A check without findings has passed in silence.
    """

    name: str
    look: Callable[[Host, Inventory], Look | None]
    judge: Callable[[State, Subject], Iterable[Finding]]

    def findings(self, look: Look, answers: Sequence[Answer], subject: Subject) -> Iterator[Finding]:
        """Yield the findings about a host, each with the name of the check.

        Args:
            look: of the host.
            answers: to the reads of `look`, in order.
            subject: the host.
        """
        for finding in self._judged(look, answers, subject):
            yield dataclasses.replace(finding, check=self.name)

    def _judged(self, look: Look, answers: Sequence[Answer], subject: Subject) -> Iterable[Finding]:
        try:
            return [*self.judge(look.parse(answers), subject)]
        except BlockedError as error:
            words = f"unknown before a deploy: {error.by} comes first"
            return [risk(words, "systemctl status docker.service", error.evidence)]
        except (UnreadableError, *GARBLED) as error:
            complaint = _complaint(answers)
            evidence = "" if complaint in str(error) else complaint
            return [bad(f"the host's answer cannot be read: {error}", BY_HAND, evidence)]


def alone(run: Run, parse: Callable[[Answer], State]) -> Look:
    """Return the look of a check with a single read.

    Args:
        run: the command.
        parse: pure; turns the answer into the state.
    """
    return Look((run,), lambda answers: parse(answers[0]))


def _complaint(answers: Sequence[Answer]) -> str:
    """Return the first complaint of the answers. Standard output of a read may be secret."""
    return next((answer.complaint for answer in answers if answer.complaint), "")
