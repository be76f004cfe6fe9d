"""The programs that a host starts, counted by the kernel: process accounting of the host's own process ids, acct(5).

Nothing on the host is asked or replaced for the count, and programs inside containers count too.
"""

import contextlib
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from provision.lab.host import Host

_SWITCH = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.acct(os.fsencode(sys.argv[1]) if len(sys.argv) > 1 else None):
    raise OSError(ctypes.get_errno(), "acct")
"""
_RECORD = 64  # bytes of struct acct_v3
_FORKED = 1  # AFORK: a process that started no program of its own


@contextlib.contextmanager
def started(host: Host, folder: Path) -> Iterator[Counter[str]]:
    """Count the programs that end on a host meanwhile, by the first 15 letters of their names.

    Args:
        host: the host.
        folder: where the kernel may write.
    """
    path = folder / f"{host.name}.acct"
    path.touch()
    counts: Counter[str] = Counter()
    _switch(host, path)
    try:
        yield counts
        time.sleep(0.3)  # the last programs end after the answer
    finally:
        _switch(host)
    data = path.read_bytes()
    records = [data[at : at + _RECORD] for at in range(0, len(data), _RECORD)]
    names = [record[48:].split(b"\0")[0].decode(errors="replace") for record in records if not record[0] & _FORKED]
    counts.update(names)
    counts.subtract({Path(sys.executable).resolve().name[:15]: 1})  # the program that switched accounting on
    path.unlink()


def _switch(host: Host, path: Path | None = None) -> None:
    words = ["nsenter", "--target", str(host.leader), "--pid", sys.executable, "-IS", "-c", _SWITCH]
    subprocess.run([*words, *([str(path)] if path else [])], check=True, timeout=30)
    assert struct.calcsize("<BBHIIIIIIfHHHHHHHH16s") == _RECORD
