"""Lab tests need root and systemd-nspawn. Where either is missing the tests are left out, and the summary says so; with
PROVISION_REQUIRE_LAB=1 (as `make test` sets it), their absence is a failure."""

import os
import shutil
import signal

import hypothesis
import pytest

from tests import slices
from tests.fleet import builds, first_deploy, fleet, lab, pytest_runtest_makereport, scratch

__all__ = ["builds", "first_deploy", "fleet", "lab", "pytest_runtest_makereport", "scratch"]

# The duration of an example tells nothing about the code, and much about the load of this machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A shell starts background jobs with SIGINT ignored, and children inherit that; tests that press Ctrl-C need SIGINT
# heeded.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Without the setting every start of ours would compile all its modules anew; an installed tool does not.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

LEFT_OUT = pytest.StashKey[int]()


def why_no_lab() -> str:
    """Why the lab cannot be started here, or nothing. With PROVISION_REQUIRE_LAB it has to start."""
    if os.environ.get("PROVISION_REQUIRE_LAB"):
        return ""
    if os.geteuid() != 0:
        return "they need root"
    if not shutil.which("systemd-nspawn") and not shutil.which("apt-get"):
        return "they need systemd-nspawn"
    return ""


@pytest.hookimpl(tryfirst=True)  # before -m looks at marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slices.mark(items)
    if not why_no_lab():
        return
    lab = [item for item in items if item.get_closest_marker("lab")]
    items[:] = [item for item in items if item not in lab]
    config.stash[LEFT_OUT] = len(lab)
    config.hook.pytest_deselected(items=lab)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    slices.summary(terminalreporter)
    count = config.stash.get(LEFT_OUT, 0)
    if count:
        terminalreporter.write_line(
            f"LEFT OUT: {count} lab tests, because {why_no_lab()}. `make test` runs them.", yellow=True
        )
