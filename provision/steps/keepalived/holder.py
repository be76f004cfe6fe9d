"""Whether a balancer has the common address at this moment."""

import re
from functools import cache

from provision.command import Answer, Run, Script, look

TITLE = "look for the common address"

SCRIPT = Script("keepalived/holder", "ip -4 -o addr show 2>/dev/null | awk '{print $4}'; echo end")


@cache
def command() -> Run:
    """Return the read-only command whose answer `holds` understands."""
    return look(SCRIPT, title=TITLE)


def holds(answer: Answer, address: str) -> bool | None:
    """Return whether the balancer has the address; None where the answer is not whole.

    Args:
        answer: to `command`.
        address: the common IPv4 address.
    """
    lines = answer.text.split()
    if not lines or lines[-1] != "end":
        return None
    return any(re.fullmatch(re.escape(address) + r"(/[0-9]{1,2})?", line) for line in lines)
