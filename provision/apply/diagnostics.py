"""Errors of a change, each with its evidence and the operator's next action. Pure."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from provision.apply import mirror_advice, proxied
from provision.command import OUT_OF_TIME, SLOW, Answer, Command
from provision.errors import CommandError, FactError, NotConvergedError, RefusedError, UnfitError
from provision.inventory import Host
from provision.plan.planner import Change, HostPlan
from provision.steps.base import BlockedError, State
from provision.steps.docker import card_path
from provision.steps.system.preflight import CARDS
from provision.terminal_text import ending

GO_ON = "then run the command again: finished changes stay"
FULL = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
MAYBE_FULL = re.compile(r"\bI/O error|input/output error", re.IGNORECASE)  # dash's printf says no more of a full disk

NO_TIME = re.compile(r'namespace \{"time" ""\} does not exist')
"""Error of runc 1.1 (Debian 13) under Docker 29.8; measured with dockerd v2.0.0-beta.24 and runc 1.1.15."""


def command_failed(change: Change, command: Command, answer: Answer, host: Host | None = None) -> CommandError:
    """Make the error of a failed command.

    Args:
        change: the change.
        command: the command.
        answer: the answer; the last lines of standard error are the evidence.
        host: the host, whose proxy or mirror may be the cause; None for no judgement of these.
    """
    late = answer.exit == OUT_OF_TIME
    reason = "took too long" if late else f"exited {answer.exit}"
    advice = _outside(host, answer.error) or repair(answer.error)
    return CommandError(
        f"{change.step.id}: {command} {reason}",
        f"{advice}, {SLOW + ', ' if late else ''}{GO_ON}",
        step=change.step.id,
        command=str(command),
        exit_status=answer.exit,
        stderr=ending("\n".join(answer.error.splitlines()[-30:]), 4000),
    )


def _outside(host: Host | None, evidence: str) -> str:
    """Return what is wrong with the proxy or a mirror of a host; empty where the evidence tells of neither."""
    return (proxied.advice(host, evidence) or mirror_advice.advice(host, evidence)) if host else ""


def repair(evidence: str) -> str:
    """Return the repair that a command's standard error asks for.

    Args:
        evidence: the standard error.
    """
    if FULL.search(evidence):
        return "make room on the host (`df -h` there shows the full disk)"
    if MAYBE_FULL.search(evidence):
        return "look for a full or broken disk on the host (`df -h` and `dmesg` there), repair the cause"
    if card_path.NO_CDI.search(evidence):
        return (
            "make the CDI file of the cards anew (`systemctl restart nvidia-cdi-refresh` there; `nvidia-ctk cdi list`"
            " shows the cards)"
        )
    if card_path.NO_DIRECT_HOOK.search(evidence):
        return "set the mode `auto` there (`nvidia-ctk config --in-place --set nvidia-container-runtime.mode=auto`)"
    if NO_TIME.search(evidence):
        return (
            "update runc on the host to 1.2 or later, or declare `docker.daemon: {features: {time-namespaces: false}}`:"
            " runc 1.1 does not know the time namespaces of Docker 29"
        )
    return "repair the cause"


def not_converged(change: Change, have: State) -> NotConvergedError:
    """Make the error of a change whose commands all succeeded while the host still differs.

    Args:
        change: the change.
        have: the state on the host after the change.
    """
    difference = "\n".join(change.step.diff(have, change.want)) if change.want is not None else ""
    return NotConvergedError(
        f"{change.step.id}: every command succeeded, and the host still differs: {_still(change, have)}",
        "another program may be changing this host; look at the host, then run the command again",
        step=change.step.id,
        stderr=difference[:2000],
    )


def _still(change: Change, have: State) -> str:
    """Return how a host differs after a change, in the operator's words."""
    if change.want is None or have is None:
        return "still there" if change.want is None else "not there"
    return change.step.why(have, change.want)


def unknown(step: str, when: str, blocked: BlockedError) -> FactError:
    """Make the error of a step that became unreadable in the middle of a run.

    Args:
        step: id of the step.
        when: the failed read and its moment, in words.
        blocked: the answer of the host; the last line goes into the message.
    """
    lines = blocked.evidence.splitlines() or [str(blocked)]
    return FactError(
        f"{step} {when}: {lines[-1][:300]}",
        "look at the host, then run the command again",
        step=step,
        stderr=ending("\n".join(lines[:-1]), 4000),
    )


def refused(instances: Mapping[str, str], unfit: Collection[str] = ()) -> RefusedError:
    """Make the error of a host with refused instances that is otherwise well.

    Args:
        instances: instance -> the reason of the refusal.
        unfit: the instances whose models do not fit their cards.
    """
    if unfit:
        return UnfitError(
            "; ".join(instances.values()),
            "declare what fits, or deploy with --force-fit: layers without room then run on the CPU; nothing of the"
            " refused instances was pulled or changed, and the other instances of this host go on",
        )
    return RefusedError(
        "; ".join(instances.values()),
        "the other instances of this host go on; repair or replace the card and deploy again, or take its instance out "
        "of the inventory",
        step=CARDS,
    )


def lost_cards(step: str, have: Mapping[str, Any]) -> NotConvergedError:
    """Make the error of a running container that does not see its cards.

    Args:
        step: id of the container's step.
        have: the state of the container.
    """
    return NotConvergedError(
        f"{step} does not see its cards any more",
        "deploy again, without --tags: the deploy recreates the container",
        step=step,
        stderr=f"given: {', '.join(have['gpus'])}; nvidia-smi inside says: {', '.join(have['sees'])}"[:2000],
    )


def unsettled(todo: HostPlan, rounds: int) -> NotConvergedError:
    """Make the error of steps that keep differing after their change.

    Args:
        todo: the changes that would be needed once more.
        rounds: the number of rounds so far.
    """
    ids = ", ".join(change.step.id for change in todo.changes)
    evidence = "\n".join(f"{c.step.id}: {c.reason}: {'; '.join(c.diff)}"[:600] for c in todo.changes)
    return NotConvergedError(
        f"after {rounds} rounds these still differ: {ids}",
        "something on the host undoes these changes; look at the host, then run the command again",
        stderr=evidence,
    )
