"""Hold every case of the contract against a live server, and give a verdict on each case."""

import time
from collections.abc import Iterable, Iterator

from tests.contract.ollama import cases, differences
from tests.contract.ollama.cases import Case
from tests.contract.ollama.targets import Address
from tests.contract.ollama.targets import differences as differing
from tests.verdicts import Verdict, Word


def verdicts(
    server: Address, chosen: Iterable[Case] | None = None, *, program: str = "Ollama", target: str = "live"
) -> Iterator[Verdict]:
    """Yield a verdict on each case; a case that cannot be judged has the verdict "not run" and the reason.

    Args:
        server: the server.
        chosen: the cases; by default all cases of the contract.
        program: the name of the program in the verdicts.
        target: the part of differences.yaml that lists the differences of this server.
    """
    listed = differences.load(target)
    for case in cases.load() if chosen is None else chosen:
        began = time.monotonic()
        word, evidence = _verdict(case, server, [entry for entry in listed if entry.case == case.name])
        yield Verdict(program, server.version, case.group, case.name, word, evidence, time.monotonic() - began)


def _verdict(case: Case, server: Address, listed: list[differences.Listed]) -> tuple[Word, str]:
    facts = case.expected(server.version)
    if isinstance(facts, str):
        return "not run", facts
    if case.network:
        return "not run", "the server would ask a registry outside this machine"
    if case.needs_registry and not server.registry:
        return "not run", "the run has no model registry"
    found = differing(case, server)
    if found and found[0].where == "given":
        return "failed", str(found[0])
    if complaints := differences.complaints(case.name, found, listed):
        return "differs", "; ".join(complaints)
    return ("listed", "; ".join(entry.reason for entry in listed)) if listed else ("holds", "")
