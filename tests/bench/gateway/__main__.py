"""The gateway beside no proxy, plain nginx and LiteLLM, by one command; writes docs/performance.md.

    make bench-gateway                           all figures: about eight minutes, after the installation of LiteLLM
    make bench-gateway ARGS=--small              a look at the bench itself: two minutes, prints and writes nothing
    make bench-gateway ARGS=--without-litellm    nginx alone

Everything runs on loopback: SIMULATED instances, Debian 13's nginx with njs under our rendered configuration, and
LiteLLM in a virtual environment of its own. Run the bench on an idle machine.
"""

import argparse
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import page
from tests.bench.gateway import measured, report
from tests.bench.gateway.peer import PINNED
from tests.bench.gateway.rig import rig
from tests.bench.gateway.sizes import FULL, SMALL
from tests.bench.peers.install import installed


def say(text: str) -> None:
    """Progress.

    Args:
        text: a line.
    """
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _programs(*, without: bool) -> Path | None:
    """The folder of LiteLLM's programs; None where LiteLLM is left out or cannot be installed."""
    if without:
        return None
    try:
        return installed("litellm", say, PINNED)
    except subprocess.CalledProcessError as error:
        say(f"LiteLLM is left out: it could not be installed: {error}")
        return None


def main() -> None:
    """Measure, print, and put the tables between their marks."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.gateway", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="few requests: a look at the bench itself, not at figures")
    parser.add_argument("--without-litellm", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    programs = _programs(without=options.without_litellm)
    about, begun = page.machine(), time.monotonic()
    sizes = SMALL if options.small else FULL
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder, rig(Path(folder), programs, say) as ground:
        figures = measured.everything(ground, sizes)
    text = report.text(figures, sizes, about, time.monotonic() - begun)
    if not options.small:
        page.write("bench-gateway", text)
    print(text)


if __name__ == "__main__":
    main()
