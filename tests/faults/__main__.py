"""Run the fault suite, or classes of it, and write docs/reliability.md: `python -m tests.faults [CLASS ...]`."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import page

LABS = "4"  # side by side, because a lab mostly waits for connections that do not answer


def main(classes: list[str]) -> int:
    """Run classes of the suite (all by default), and return the exit code of pytest."""
    unknown = set(classes) - page.CLASSES.keys()
    if unknown:
        print(f"no such class: {', '.join(sorted(unknown))}; there are {', '.join(page.CLASSES)}", file=sys.stderr)
        return 2
    folder = Path(__file__).parent
    files = [str(folder / f"test_{name}.py") for name in classes or page.CLASSES]
    files += [] if classes else [str(folder.parent / "lab")]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        record = Path(work) / "record"
        environment = {"PROVISION_REQUIRE_LAB": "1", **os.environ, "PROVISION_FAULTS_RECORD": str(record)}
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            LABS,
            "--dist",
            "loadscope",
            "-m",
            "faults or matrix",
            *files,
        ]
        code = subprocess.run(words, env=environment, check=False).returncode
        given = f' CLASS="{" ".join(classes)}"' if classes else ""
        page.publish(page.read(record), f"make test-faults{given}", time.monotonic() - begun, whole=not classes)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
