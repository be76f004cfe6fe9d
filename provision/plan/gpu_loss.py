"""Whether a change may take the cards from running containers, and which instances have lost their cards. Pure.

Source: `systemctl daemon-reload`, with containers in cgroups made by systemd, docs/facts.md#lost-cards.
"""

from collections.abc import Collection, Iterable, Mapping

from provision.command import Answer, Run
from provision.errors import FactError
from provision.plan.change_order import is_container
from provision.plan.planner import Change, parse
from provision.plan.role_interface import Entry
from provision.steps.base import BlockedError, RefusalError, State, Step, UnreadableError
from provision.steps.docker import card_path, daemon_state
from provision.steps.facts import HostFacts
from provision.steps.instance.container_state import LEFT


def endangers(change: Change) -> bool:
    """Whether a change may reload systemd or restart Docker. A pending change counts if its kind can."""
    return change.step.endangers_cards if change.pending else change.step.endangers(change.have, change.want)


def reads(entries: Iterable[Entry]) -> list[Run]:
    """Return the commands that tell whether the cards of a gpu host are safe.

    Args:
        entries: all steps of the host.
    """
    containers = (entry.step.fact().command for entry in entries if is_container(entry.step))
    return list(dict.fromkeys([daemon_state.COMMAND, *containers]))


def are_safe(entries: Iterable[Entry], answers: Mapping[Run, Answer]) -> bool:
    """Whether all containers keep their cards over a daemon-reload. A container without a read counts as safe.

    Args:
        entries: all steps of a gpu host.
        answers: the latest reads.
    """
    answer = answers.get(daemon_state.COMMAND)
    try:
        safe = answer is None or reload_safe(answer)
    except UnreadableError:
        return False
    return safe and not any(_is_left(entry, answers) for entry in entries if is_container(entry.step))


def reload_safe(answer: Answer) -> bool:
    """Whether our containers keep their cards over a `systemctl daemon-reload` (docs/facts.md#lost-cards).

    The path by which each running container got its cards decides. Where systemd makes the cgroups and no container
    proves a path, a container that Docker makes next counts as unsafe, whatever the version of Docker. True also if
    Docker cannot make containers.

    Args:
        answer: to `daemon_state.COMMAND`.

    Raises:
        UnreadableError: the daemon does not answer.
    """
    daemon = daemon_state.read(answer)
    if any(each.ours for each in daemon.at_risk):
        return False
    return not daemon.running or daemon.info.get("driver") == "cgroupfs" or daemon.by_cdi


def loss(answers: Mapping[Run, Answer]) -> tuple[str, str]:
    """Return the words for our containers that lose their cards at a daemon-reload, and for those of others.

    Args:
        answers: the latest reads.
    """
    answer = answers.get(daemon_state.COMMAND)
    try:
        risk = daemon_state.read(answer).at_risk if answer else ()
    except UnreadableError:
        return "", ""
    ours, others = ([each for each in risk if each.ours is own] for own in (True, False))
    return card_path.listed(ours), card_path.listed(others)


def blind(entry: Entry, answers: Mapping[Run, Answer]) -> State:
    """Return the state of an instance that runs and does not see its cards; None for any other instance.

    Args:
        entry: the step of the container.
        answers: the latest reads.

    Raises:
        FactError: the container cannot be read.
    """
    try:
        have = parse(entry.step.fact(), answers, entry.step.id)
    except BlockedError:
        return None
    return have if have is not None and have.get("running") and have["sees"] != have["gpus"] else None


def lost(
    names: Collection[str], entries: Iterable[Entry], answers: Mapping[Run, Answer], facts: HostFacts
) -> frozenset[str]:
    """Return the refused instances that do not serve at their declared address, or not on healthy cards.

    Args:
        names: the refused instances. An instance without a read of its container is left out of the result.
        entries: all steps of the host.
        answers: the latest reads.
        facts: facts about the host.
    """
    steps = (entry.step for entry in entries if entry.step.part_of in names and entry.step.serves)
    known = (step for step in steps if step.fact().command in answers)
    return frozenset(step.part_of for step in known if not _serves(step, answers, facts))


def _serves(step: Step, answers: Mapping[Run, Answer], facts: HostFacts) -> bool:
    try:
        return step.is_serving(facts, parse(step.fact(), answers, step.id))
    except (BlockedError, FactError, RefusalError):
        return False


def _is_left(entry: Entry, answers: Mapping[Run, Answer]) -> bool:
    """Whether an instance lives in a cgroup of a kind that Docker no longer makes."""
    fact = entry.step.fact()
    try:
        have = parse(fact, answers, entry.step.id) if fact.command in answers else None
    except (BlockedError, FactError):
        return False
    return have is not None and have.get("cgroup") == LEFT
