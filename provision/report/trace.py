"""What `-vv` prints: the SSH connections, and every exec over them."""

import logging
import sys

SSH = ("provision.ssh", "paramiko.transport")


class _Stderr(logging.Handler):
    """Prints to standard error as it is now."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def show_ssh() -> None:
    """Print connections, key exchanges, logins and execs from now on; no data that goes over a connection."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("ssh %(relativeCreated)d ms: %(message)s"))
    for name in SSH:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if name.startswith("paramiko") else logging.DEBUG)
        logger.addHandler(handler)
        logger.propagate = False
