"""Compares the clock of a host with this machine's, from the read at the start of every run. Pure."""

TOLERANCE = 60  # seconds of difference, not counting the duration of the read
UNITS = ((2 * 86400, 86400, "days"), (7200, 3600, "h"), (120, 60, "min"))


def warning(host: str, clock: int | None, asked: float, answered: float) -> str:
    """Return a warning about a host's clock; empty if the clocks agree, or the host's clock is not known.

    Args:
        host: the name of the host.
        clock: the host's clock in seconds since 1970, or None.
        asked: this machine's clock before the question to the host, in seconds since 1970.
        answered: this machine's clock after the answer, in seconds since 1970.
    """
    off = _off(clock, asked, answered) if clock is not None else 0.0
    if abs(off) <= TOLERANCE:
        return ""
    difference = f"{_long(abs(off))} {'ahead of' if off > 0 else 'behind'} this machine's"
    return f"{host}: the host's clock is {difference}; run `timedatectl` on both machines to see which clock is wrong"


def _off(clock: int, asked: float, answered: float) -> float:
    """Return the seconds by which the host's clock is ahead at least, below zero if behind. The host read its clock at
    some moment between the question and the answer."""
    if clock > answered:
        return clock - answered
    return min(0.0, clock + 1 - asked)  # the host's clock has whole seconds


def _long(seconds: float) -> str:
    for least, unit, name in UNITS:
        if seconds >= least:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
