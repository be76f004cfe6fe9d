"""The peers, in virtual environments of their own below the user's cache folder."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).parent
# The newest versions in the package index on 2026-11-22. `ansible` is ansible-core 2.19 with community.docker.
PINNED = {
    "pyinfra": ("pyinfra==3.10.0",),
    "ansible": ("ansible==12.3.0", "ansible-core==2.19.14", "mitogen==0.3.54"),
}


def cache() -> Path:
    """Folder of environments and results: outside of the tree, and used again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "provision-bench"


def installed(name: str, say: Callable[[str], None], pinned: Mapping[str, Sequence[str]] = PINNED) -> Path:
    """The folder of a peer's programs; a missing or otherwise pinned peer is installed first.

    Args:
        name: a key of `pinned`.
        say: called with a line before each long step.
        pinned: name of a peer -> its pinned packages.
    """
    folder = cache() / name
    stamp = folder / "pinned"
    if not stamp.exists() or stamp.read_text() != "\n".join(pinned[name]):
        say(f"installing {' '.join(pinned[name])}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([folder / "bin/pip", "install", "--quiet", *pinned[name]], check=True)
        stamp.write_text("\n".join(pinned[name]))
    return folder / "bin"


def strategies(programs: Path) -> Path:
    """Folder of mitogen's strategies for Ansible.

    Args:
        programs: folder of the peer's programs, from `installed`.
    """
    return next(programs.parent.glob("lib/*/site-packages/ansible_mitogen/plugins/strategy"))
