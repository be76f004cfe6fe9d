"""The files of a load test, written whole or not at all; every request as CSV."""

import csv
import errno
import io
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from provision.errors import ProvisionError, UsageError
from provision.loadtest.measure import Tally
from provision.terminal_text import line

COLUMNS = (
    "at",
    "target",
    "instance",
    "status",
    "problem",
    "detail",
    "ttft",
    "total",
    "tokens",
    "rate",
    "queued",
    "retried",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of a cell that a spreadsheet would run


def check(*paths: str) -> None:
    """Make sure that files can be written: before the load, not after it.

    Raises:
        UsageError: a file cannot be written, or two paths are the same file.
    """
    if len({os.path.realpath(path) for path in paths}) < len(paths):
        raise UsageError("two reports cannot be written to the same file")
    for path in paths:
        try:
            if Path(path).is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            with tempfile.TemporaryFile(dir=Path(path).parent):
                pass
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error


def put(path: str, data: bytes) -> None:
    """Write a file: all of it, or the old content stays.

    Args:
        path: the file.
        data: its content.

    Raises:
        ProvisionError: the file cannot be written.
    """
    target = Path(path)
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(target)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise ProvisionError(f"{path} cannot be written: {error.strerror or error}") from error


def write_csv(path: str, tally: Tally) -> None:
    """Write a line per request. Times are seconds.

    Args:
        path: the file; its content is replaced.
        tally: the requests.

    Raises:
        ProvisionError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for record in tally.records:
        writer.writerow([_cell(getattr(record, column)) for column in COLUMNS])
    put(path, text.getvalue().encode())


def _cell(value: object) -> object:
    """A value that is safe for a spreadsheet: a server's text must not become a formula."""
    if not isinstance(value, str):
        return value
    text = line(value, 300)
    return f"'{text}" if text.startswith(FORMULA) else text
