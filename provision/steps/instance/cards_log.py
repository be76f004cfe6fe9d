"""The proof by a server's log: the line of its start that names the library for its cards."""

from typing import Any

from provision.steps.base import NOT_ASKED, Check
from provision.steps.instance.engine import CardsLog

# $1 container, $2 words of the line, $3 key. The log is read from its present start only: older lines outlive the
# restart that mended their cause.
LINES = """
since=$(docker inspect --type container --format '{{.State.StartedAt}}' "$1")
timeout 60 docker logs --since "$since" "$1" 2>&1 | grep -F -e "$2" | grep -oE -e "$3=[^ ]{1,40}" | sort -u | head -n 8
"""


def check(live: Any, name: str, log: CardsLog) -> Check:
    """Return whether a server's log says that it uses its cards; not asked where the line of its start is gone.

    Args:
        live: testinfra's host.
        name: name of the container.
        log: the line, by the engine.
    """
    output = live.run("sh -c %s sh %s %s %s", LINES, name, log.line, log.key).stdout
    found = sorted({word.partition("=")[2].lower() for word in output.split()})
    if not found:
        return Check(f"{NOT_ASKED}the cards that its server found: the log of its start is gone", True, True)
    return Check(f"{log.key} of its server, by the log of its start", found, [log.wanted.lower()])
