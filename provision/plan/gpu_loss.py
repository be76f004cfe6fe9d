"""Whether a change may take the cards from running containers, and which instances have lost theirs. Pure.

Source: `systemctl daemon-reload` behind containers in cgroups of systemd's making, docs/facts.md#lost-cards.
"""

from collections.abc import Collection, Iterable, Mapping

from provision.command import Answer, Run
from provision.errors import FactError
from provision.plan.change_order import is_container
from provision.plan.planner import Change, parse
from provision.plan.role_interface import Entry
from provision.steps.base import BlockedError, RefusalError, State, Step, UnreadableError
from provision.steps.docker import daemon_state
from provision.steps.docker.service import CDI_ENGINE, engine_version
from provision.steps.facts import HostFacts
from provision.steps.instance.container import LEFT


def endangers(change: Change) -> bool:
    """Whether a change may reload systemd or restart Docker; of one that is pending that is not known yet."""
    return change.step.endangers_cards if change.pending else change.step.endangers(change.have, change.want)


def reads(entries: Iterable[Entry]) -> list[Run]:
    """The commands that tell whether the cards of a gpu host are safe.

    Args:
        entries: all of its steps.
    """
    found = (entry.step.fact().command for entry in entries if is_container(entry.step))
    return list(dict.fromkeys([daemon_state.COMMAND, *found]))


def are_safe(entries: Iterable[Entry], answers: Mapping[Run, Answer]) -> bool:
    """Whether all containers keep their cards over a daemon-reload; what nobody asked for is not doubted.

    Args:
        entries: all steps of a gpu host.
        answers: what was read last.
    """
    answer = answers.get(daemon_state.COMMAND)
    try:
        safe = answer is None or reload_safe(answer)
    except UnreadableError:
        return False
    return safe and not any(_is_left(entry, answers) for entry in entries if is_container(entry.step))


def reload_safe(answer: Answer) -> bool:
    """Whether containers that Docker makes now keep their cards over a daemon-reload (docs/facts.md#lost-cards).

    They do where Docker can make none, too.

    Args:
        answer: to `daemon_state.COMMAND`.

    Raises:
        UnreadableError: the daemon does not answer.
    """
    daemon = daemon_state.read(answer)
    version = engine_version(str(daemon.info.get("version", "")))
    return not daemon.running or daemon.info.get("driver") == "cgroupfs" or version >= CDI_ENGINE


def blind(entry: Entry, answers: Mapping[Run, Answer]) -> State:
    """What was found of an instance that runs and does not see its cards; None for any other.

    Args:
        entry: its container.
        answers: what was read last.

    Raises:
        FactError: it cannot be read.
    """
    try:
        have = parse(entry.step.fact(), answers, entry.step.id)
    except BlockedError:
        return None
    return have if have is not None and have.get("running") and have["sees"] != have["gpus"] else None


def lost(
    names: Collection[str], entries: Iterable[Entry], answers: Mapping[Run, Answer], facts: HostFacts
) -> frozenset[str]:
    """Those of these instances that do not serve where the inventory has them, or not on cards that are well.

    Args:
        names: instances that cannot be worked on. One whose container was not read is not among the result.
        entries: all steps of their host.
        answers: what was read last.
        facts: what is known of the host.
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
    """Whether an instance lives in a cgroup that Docker would not make any more."""
    fact = entry.step.fact()
    try:
        have = parse(fact, answers, entry.step.id) if fact.command in answers else None
    except (BlockedError, FactError):
        return False
    return have is not None and have.get("cgroup") == LEFT
