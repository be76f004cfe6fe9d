"""Run everything against the real programs and write the page: `python -m tests.real [PART ...]`."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from provision.lab.model_registry import ModelRegistry
from tests import results
from tests.contract.ollama import live, pulls
from tests.contract.ollama.targets import Address
from tests.real import models, page
from tests.real.install import docker, docker_packaged, nvidia_smi, toolkit
from tests.real.install import programs as real_programs
from tests.real.install.programs import Programs
from tests.real.install.workshop import InstallError
from tests.real.instance import Host
from tests.verdicts import Program, Verdict

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
PARTS = (
    "contract",
    "pull_script",
    "scripts",
    "proofs",
    "balancer",
    "clients",
    "loadtest",
    "capacity",
    "engine",
    "docker",
    "toolkit",
    "nvidia_smi",
)
ALONE: dict[str, Callable[[], list[Program]]] = {
    "engine": docker_packaged.programs,
    "docker": docker.programs,
    "toolkit": toolkit.programs,
    "nvidia_smi": nvidia_smi.programs,
}
"""The parts without Ollama: each has a function that installs the part's programs and returns the list for the page."""


def main(parts: list[str], install: Callable[[], Programs] = real_programs.installed) -> int:
    """Run parts (all by default), keep the results, write the page, and return the exit code.

    Args:
        parts: words of `PARTS`.
        install: returns the programs of the parts that need Ollama.
    """
    if unknown := set(parts) - set(PARTS):
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    chosen = [part for part in PARTS if part in (parts or PARTS)]
    try:
        programs = install() if set(chosen) - set(ALONE) else None
        passed = [_run(part, programs) for part in chosen]
    except InstallError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0 if all(passed) else 1


def _run(part: str, programs: Programs | None) -> bool:
    """Run a part, keep the result, write the page of all results, and return whether the part passed.

    Raises:
        InstallError: a program of the part cannot be installed.
    """
    print(f"\n{part}", flush=True)
    result = results.begun(part, results.machine("CPU only"))
    with result.timed():
        if programs is None or part in ALONE:
            result.programs = ALONE[part]()
            result.verdicts = _tests(part)
        else:
            result.programs = list(programs.listed)
            result.verdicts = _contract(programs) if part == "contract" else _tests(part)
    for verdict in result.verdicts:
        if verdict.breaks:
            print(f"{verdict.verdict}: {verdict.group}: {verdict.case}: {verdict.evidence}", file=sys.stderr)
    result.save(RESULTS)
    page.write(results.load(RESULTS, PARTS), PARTS)
    print(f"{page.PAGE.relative_to(FOLDER.parents[1])}: {len(result.verdicts)} verdicts of {part}")
    return result.passed


def _contract(programs: Programs) -> list[Verdict]:
    """Hold the cases of the contract against a live server."""
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder), programs.ollama.program).prepare()
        server = host.instance("contract", OLLAMA_KEEP_ALIVE="5m").start()
        try:
            models.create(server, programs.weights, recorded_only=True)
            with ModelRegistry(Path(folder) / "registry").serving() as registry:
                pulls.publish(registry)
                address = Address("127.0.0.1", server.port, programs.ollama.version, registry=registry.host)
                return list(_shown(live.verdicts(address)))
        finally:
            server.kill()


def _shown(verdicts: Iterator[Verdict]) -> Iterator[Verdict]:
    for verdict in verdicts:
        print(f"{verdict.verdict:8} {verdict.group}: {verdict.case} ({verdict.seconds:.1f} s)", flush=True)
        yield verdict


def _tests(part: str) -> list[Verdict]:
    """Run the tests of a part, and return a verdict for each test; a part without a test is a failure."""
    with tempfile.TemporaryDirectory() as work:
        record = Path(work) / "record"
        environment = {**os.environ, "PROVISION_REAL_RECORD": str(record)}
        words = [sys.executable, "-m", "pytest", "-q", "--no-header", str(FOLDER / f"test_{part}.py")]
        code = subprocess.run(words, env=environment, check=False).returncode
        rows = record.read_text().splitlines() if record.exists() else []
    verdicts = [Verdict(**json.loads(row)) for row in rows]
    if (code and not any(verdict.breaks for verdict in verdicts)) or not verdicts:
        evidence = f"pytest ended with exit code {code} after {len(verdicts)} cases"
        verdicts.append(Verdict("pytest", "", part.replace("_", " "), "all cases ran", "failed", evidence))
    return verdicts


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
