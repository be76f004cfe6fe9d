"""The peers, in virtual environments of their own below the user's cache folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
# The newest that the package index offered on 2026-11-22. `ansible` is ansible-core 2.19 with community.docker.
PINNED = {
    "pyinfra": ("pyinfra==3.10.0",),
    "ansible": ("ansible==12.3.0", "ansible-core==2.19.14", "mitogen==0.3.54"),
}


def cache() -> Path:
    """Where environments and results are kept: outside of the tree, and used again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "provision-bench"


def installed(name: str, say: Callable[[str], None]) -> Path:
    """The folder of a peer's programs; installed first if it is not there as pinned.

    Args:
        name: a key of `PINNED`.
        say: is told what takes long.
    """
    folder = cache() / name
    stamp = folder / "pinned"
    if not stamp.exists() or stamp.read_text() != "\n".join(PINNED[name]):
        say(f"installing {' '.join(PINNED[name])}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *PINNED[name]], check=True)
        stamp.write_text("\n".join(PINNED[name]))
    return folder / "bin"


def strategies(programs: Path) -> Path:
    """Where mitogen keeps its strategies for Ansible.

    Args:
        programs: from `installed`.
    """
    return next(programs.parent.glob("lib/*/site-packages/ansible_mitogen/plugins/strategy"))
