"""The part of the firewall that keeps the instances of a host from each other, where each has a network of its own.

Docker drops packets between the networks. A way is left: an instance sends to the published address of another
instance. Docker translates no packet from its own bridges, so Docker's proxy on the host takes the packet, which passes
INPUT and not FORWARD (docs/facts.md#docker-ports). So INPUT leads the packets of our bridges to our chain, whose first
rules refuse the published ports.
"""

from collections.abc import Iterable, Mapping
from typing import Any

INTERFACES = "pvn-"  # begins the name of every bridge of ours; a name of an interface has at most 15 characters
FROM_INSTANCES = f"-i {INTERFACES}+"
_JUMP = f"INPUT {FROM_INSTANCES} -j PROVISION"
JUMP = f"-A {_JUMP}"
READ = "\niptables -w 10 -S INPUT || exit 76\n"  # before the end of the script that reads the chains
LOOK = "\niptables -w 10 -S INPUT\n"
LEAVE = f"while iptables -w 10 -D {_JUMP} 2>/dev/null; do :; done\n"
# In one commit, so that no packet passes in between.
ENTER = f"""
enter() {{
  {{
    echo '*filter'
    iptables -w 10 -S INPUT | grep -xF -e '{JUMP}' | sed 's/^-A/-D/'
    printf '%s\\n' '-I INPUT 1 {_JUMP.removeprefix("INPUT ")}' COMMIT
  }} | iptables-restore -w 10 --noflush
}}
"""


def rule(match: str) -> str:
    """Return the rule that refuses a published port to the instances.

    Args:
        match: of the port.
    """
    return f"{FROM_INSTANCES} {match} -j REJECT --reject-with tcp-reset"


def entered(lines: Iterable[str]) -> dict[str, bool]:
    """Return the part of the firewall's state about INPUT; empty where INPUT was not read.

    Args:
        lines: the rules, in the words of `iptables -S`.
    """
    ours = [line for line in lines if line.startswith(("-P INPUT ", "-A INPUT "))]
    return {"entered": ours[1:2] == [JUMP]} if ours else {}


def is_isolated(state: Mapping[str, Any]) -> bool:
    """Whether a state of the firewall keeps instances from each other."""
    return state.get("entered") is True or any(rule.startswith(FROM_INSTANCES) for rule in state.get("rules", ()))
