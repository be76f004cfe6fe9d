"""Cases of a part, one after the other: each gives a verdict, and a broken case leaves the rest out by name."""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from provision.errors import ProvisionError
from tests.verdicts import Verdict, Word

_END = 300  # characters of the end of an output, which says most


class NotRunError(Exception):
    """A part cannot run on this machine. The text names the reason and the next step."""


@dataclass
class Judged:
    """The judged program of a part, in the words of the page.

    Attributes:
        program: the name, such as "Debian 12 on Linux".
        version: the version, known when a machine has booted.
    """

    program: str
    version: str = ""


@dataclass(frozen=True)
class Case:
    """A case of a part.

    Args:
        name: the sentence that has to hold.
        work: returns the evidence, or verdicts of its own; raises `AssertionError` where the sentence does not hold,
            another error where the case could not be judged, and `NotRunError` where time or machine forbid the case.
        alone: whether the part goes on after a failure of this case.
    """

    name: str
    work: Callable[[], str | Sequence[Verdict]]
    alone: bool = False


def played(part: str, judged: Judged, cases: Sequence[Case]) -> Iterator[list[Verdict]]:
    """Run cases in order and yield the verdicts of each. After a failure the cases that build on it are not run.

    Args:
        part: the name of the part, which is the group of the verdicts.
        judged: the judged program; a case may fill in the version.
        cases: the cases.
    """
    broken = ""
    for case in cases:
        if broken:
            yield unjudged(part, judged, [case], "not run", f"the case before is broken: {broken}")
            continue
        verdicts = list(_verdicts(part, judged, case))
        yield verdicts
        own = next((each for each in verdicts if each.case == case.name), None)
        if own and own.verdict in {"differs", "failed"} and not case.alone:
            broken = case.name


def unjudged(part: str, judged: Judged, cases: Sequence[Case], word: Word, reason: str) -> list[Verdict]:
    """Return the verdicts of cases that did not run.

    Args:
        part: the name of the part.
        judged: the judged program.
        cases: the cases.
        word: `not run` where a reason forbids the cases, `failed` where the run broke off.
        reason: why the cases did not run.
    """
    return [Verdict(judged.program, judged.version, part, case.name, word, reason) for case in cases]


def _verdicts(part: str, judged: Judged, case: Case) -> Sequence[Verdict]:
    begun = time.monotonic()
    own = Verdict(judged.program, judged.version, part, case.name, "holds")
    try:
        said = case.work()
    except NotRunError as reason:
        own = replace(own, verdict="not run", evidence=str(reason))
    except AssertionError as error:
        own = replace(own, verdict="differs", evidence=str(error) or "the condition does not hold")
    except ProvisionError as error:
        own = replace(own, verdict="failed", evidence=" ".join(filter(None, [error.message, error.hint])))
    except subprocess.TimeoutExpired as error:
        own = replace(own, verdict="failed", evidence=f"no end within {error.timeout:.0f} s: {ending(_text(error))}")
    except (OSError, ValueError, LookupError) as error:
        own = replace(own, verdict="failed", evidence=f"{type(error).__name__}: {error}")
    else:
        if not isinstance(said, str):
            return said
        own = replace(own, evidence=said)
    return [replace(own, version=judged.version, seconds=round(time.monotonic() - begun, 1))]


def ending(text: str) -> str:
    """Return the end of an output, which has the reason of a failure."""
    return text.strip()[-_END:]


def _text(error: subprocess.TimeoutExpired) -> str:
    output = error.output or b""
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output)
