"""Run everything against the real programs and write the page: `python -m tests.real [PART ...]`."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from provision.lab.model_registry import ModelRegistry
from tests.contract.ollama import live, pulls
from tests.contract.ollama.targets import Address
from tests.real import models, page
from tests.real.install import programs as real_programs
from tests.real.install.programs import Programs
from tests.real.install.workshop import InstallError
from tests.real.instance import Host
from tests.real.verdicts import Session, Verdict

FOLDER = Path(__file__).parent
PARTS = ("contract", "pull_script", "scripts", "proofs", "balancer", "clients", "loadtest")


def main(parts: list[str], install: Callable[[], Programs] = real_programs.installed) -> int:
    """Run parts (all by default), write the page where all ran, and return the exit code.

    Args:
        parts: words of `PARTS`.
        install: returns the programs.
    """
    if unknown := set(parts) - set(PARTS):
        print(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    try:
        programs = install()
    except InstallError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    session = Session(f"{datetime.now(UTC):%Y-%m-%d}", _machine(), list(programs.listed))
    for part in parts or PARTS:
        print(f"\n{part}", flush=True)
        with _timed(session, part.replace("_", " ")):
            session.verdicts += _contract(programs) if part == "contract" else _tests(part)
    for verdict in session.verdicts:
        if verdict.breaks:
            print(f"{verdict.verdict}: {verdict.group}: {verdict.case}: {verdict.evidence}", file=sys.stderr)
    if not parts:
        page.write(session)
        print(f"{page.PAGE.relative_to(FOLDER.parents[1])}: {len(session.verdicts)} verdicts")
    return 0 if session.passed else 1


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


@contextmanager
def _timed(session: Session, part: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    session.seconds[part] = time.monotonic() - began


def _machine() -> str:
    memory = int(Path("/proc/meminfo").read_text().split()[1]) / (1 << 20)
    return f"{len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, CPU only"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
