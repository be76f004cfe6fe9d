"""A host's file systems: an overlay on the cached base, and real directories for Docker's layers.

An overlay cannot carry another overlay's upper directory, so /var/lib/docker and /var/lib/containerd are
bind mounts of directories beside it. Saving a host turns its upper directory into one more read-only layer,
so going back means: throw the newer directory away, mount again.
"""

import json
import shutil
from pathlib import Path

from provision.lab.base import discard
from provision.lab.shell import LabError, run

BOUND = ("docker", "containerd")


class Disk:
    """The file systems of one host.

    Args:
        home: the host's directory in the lab's state.
        base: root of the cached base.
    """

    def __init__(self, home: Path, base: Path) -> None:
        self.home = home
        self.root = home / "root"
        self._base = base

    @property
    def mounted(self) -> bool:
        """Whether the root is mounted."""
        return self.root.is_mount()

    def mount(self) -> None:
        """Mount the root, unless it is mounted."""
        if self.mounted:
            return
        for name in ("root", "upper", "work", *BOUND):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        # `volatile` makes fsync free. Its mark forbids a second mount, because a crash of the machine could have
        # lost data; a throw-away host does not care, so the mark goes with the work directory.
        shutil.rmtree(self.home / "work", ignore_errors=True)
        (self.home / "work").mkdir()
        lower = ":".join(map(str, [*self._stack(), self._base]))
        options = f"lowerdir={lower},upperdir={self.home / 'upper'},workdir={self.home / 'work'}"
        words = ["mount", "-t", "overlay", "overlay", str(self.root), "-o"]
        if run([*words, f"{options},volatile"], check=False).returncode:
            run([*words, options])

    def unmount(self) -> None:
        """Unmount the root; the host must not run."""
        if self.mounted and run(["umount", self.root], check=False).returncode:
            run(["umount", "--lazy", self.root])

    def require(self, label: str, *, saved: bool) -> None:
        """Make sure that a state was saved under a label (or was not, without `saved`); the bare base always was.

        Raises:
            LabError: the state is missing, or is there when it must not be.
        """
        there = not label or label in self.saved()
        if there and not saved:
            raise LabError(f"{self.home.name} has a state {label!r} already", "choose another label")
        if saved and not there:
            raise LabError(f"{self.home.name} has no state {label!r}", f"it has: {', '.join(self.saved()) or 'none'}")

    def save(self, label: str) -> None:
        """Keep the present state under a label; the host must not run.

        Raises:
            LabError: the label is taken.
        """
        self.require(label, saved=False)
        point = self.home / "saved" / label
        self.unmount()
        discard(point)
        layer = self.home / "layers" / str(len(list((self.home / "layers").glob("*"))))
        layer.parent.mkdir(exist_ok=True)
        (self.home / "upper").rename(layer)
        stack = [layer.name, *(path.name for path in self._stack())]
        self._set_stack(stack)
        point.mkdir(parents=True)
        for name in BOUND:
            _copy(self.home / name, point / name)
        (point / "stack.json").write_text(json.dumps(stack))

    def restore(self, label: str) -> None:
        """Go back to a saved state, or with an empty label to the bare base; the host must not run.

        Raises:
            LabError: nothing was saved under that label.
        """
        self.require(label, saved=True)
        point = self.home / "saved" / label
        self.unmount()
        for name in ("upper", *BOUND):
            discard(self.home / name)
        for name in BOUND if label else ():
            _copy(point / name, self.home / name)
        self._set_stack(json.loads((point / "stack.json").read_text()) if label else [])

    def saved(self) -> list[str]:
        """The labels that `restore` accepts."""
        return sorted(path.parent.name for path in self.home.glob("saved/*/stack.json"))

    def _stack(self) -> list[Path]:
        file = self.home / "stack.json"
        names = json.loads(file.read_text()) if file.exists() else []
        return [self.home / "layers" / name for name in names]

    def _set_stack(self, names: list[str]) -> None:
        (self.home / "stack.json").write_text(json.dumps(names))


def _copy(source: Path, target: Path) -> None:
    # cp keeps the extended attributes by which overlayfs remembers deleted directories
    run(["cp", "--archive", "--reflink=auto", source, target])
