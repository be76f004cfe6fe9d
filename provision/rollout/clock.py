"""Whether a host's clock and this machine's agree, by the read that every run begins with. Pure."""

TOLERANCE = 60  # seconds beyond the time that the read took
UNITS = ((2 * 86400, 86400, "days"), (7200, 3600, "h"), (120, 60, "min"))


def warning(host: str, clock: int | None, asked: float, answered: float) -> str:
    """What is said of a host's clock; empty where it agrees with this machine's, or is not known.

    Args:
        host: its name.
        clock: what the host's clock said, in seconds since 1970; or None.
        asked: this machine's clock before the host was asked.
        answered: this machine's clock after the host had answered.
    """
    off = _off(clock, asked, answered) if clock is not None else 0.0
    if abs(off) <= TOLERANCE:
        return ""
    said = f"{_long(abs(off))} {'ahead of' if off > 0 else 'behind'} this machine's"
    return f"{host}: the host's clock is {said}; run `timedatectl` on both machines to see which clock is wrong"


def _off(clock: int, asked: float, answered: float) -> float:
    """Seconds by which the host's clock is ahead at least, or behind if below zero: it was read at some moment between
    the question and the answer."""
    if clock > answered:
        return clock - answered
    return min(0.0, clock + 1 - asked)  # a clock says whole seconds


def _long(seconds: float) -> str:
    for least, unit, name in UNITS:
        if seconds >= least:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
