"""Whether a change may take the cards from running containers: the GPU-loss guard. Pure.

Source: `systemctl daemon-reload` and restarts of Docker behind containers in cgroups of systemd's making, FACTS 2.5.
"""

from collections.abc import Iterable, Mapping

from provision.command import Answer, Run
from provision.errors import FactError
from provision.grouping import is_container
from provision.plan import Change, parse
from provision.sequence import Entry
from provision.steps import docker_daemon, dockerd
from provision.steps.base import BlockedError, UnreadableError
from provision.steps.container import LEFT


def endangers(change: Change) -> bool:
    """Whether a change may reload systemd or restart Docker; of one that is pending that is not known yet."""
    return change.step.endangers_cards if change.pending else change.step.endangers(change.have, change.want)


def reads(entries: Iterable[Entry]) -> list[Run]:
    """The commands that tell whether the cards of a gpu host are safe.

    Args:
        entries: all of its steps.
    """
    found = (entry.step.fact().command for entry in entries if is_container(entry.step))
    return list(dict.fromkeys([dockerd.COMMAND, *found]))


def are_safe(entries: Iterable[Entry], answers: Mapping[Run, Answer]) -> bool:
    """Whether all containers keep their cards over a daemon-reload; what nobody asked for is not doubted.

    Args:
        entries: all steps of a gpu host.
        answers: what was read last.
    """
    answer = answers.get(dockerd.COMMAND)
    try:
        safe = answer is None or docker_daemon.reload_safe(answer)
    except UnreadableError:
        return False
    return safe and not any(_is_left(entry, answers) for entry in entries if is_container(entry.step))


def _is_left(entry: Entry, answers: Mapping[Run, Answer]) -> bool:
    """Whether an instance lives in a cgroup that Docker would not make any more."""
    fact = entry.step.fact()
    try:
        have = parse(fact, answers, entry.step.id) if fact.command in answers else None
    except (BlockedError, FactError):
        return False
    return have is not None and have.get("cgroup") == LEFT
