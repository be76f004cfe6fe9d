"""Whose streams a change of a host would cut, and whose cards the change may take, by the reads of the host."""

import dataclasses
from collections.abc import Sequence

from provision.apply.host_reader import HostReader
from provision.artifacts.store import Store
from provision.command import Obtain
from provision.errors import HostError
from provision.plan import gpu_loss
from provision.plan.change_order import Group, creates, may_run
from provision.plan.planner import Change
from provision.steps.base import EVERY


class Disruption:
    """Tells which instances of a host a change disrupts.

    Args:
        reader: reads the host.
    """

    def __init__(self, reader: HostReader) -> None:
        self._reader = reader

    def of(self, change: Change) -> frozenset[str]:
        """Return the names of the instances whose streams a change would cut or whose cards it may take; or `EVERY`.

        Args:
            change: as planned, or as the host is now.
        """
        unsafe = gpu_loss.endangers(change) and not self._reload_is_safe()
        names = EVERY if unsafe else change.step.disrupts(change.have, change.want)
        return names if names != EVERY or self._may_serve() else frozenset()

    def within(self, change: Change, group: Group) -> frozenset[str]:
        """Return the names of the instances that must go out for a change, or `EVERY`.

        Args:
            change: as the host is now.
            group: the group of the change.
        """
        if creates(change):  # another instance gives up its cards or port for the new instance
            return group.instances - EVERY - {change.step.part_of}
        return self.of(change)

    def concerned(self, changes: Sequence[Change]) -> frozenset[str]:
        """Return the names of the instances that changes concern, disrupted or not, or `EVERY`.

        Args:
            changes: as planned.
        """
        names = {change.step.part_of for change in changes if change.step.part_of and not change.step.follows_test}
        disrupted = {name for change in changes for name in self.of(change)}
        return EVERY if disrupted >= EVERY else frozenset(names | disrupted)

    def with_cost(self, change: Change, store: Store) -> Change:
        """Return a change with its cost on this host: a daemon-reload may take the cards of containers, and an artifact
        in this machine's store is copied, not made.

        Args:
            change: as planned.
            store: this machine's artifacts, made by hosts.
        """
        change = _copied(change, store)
        if not gpu_loss.endangers(change):
            return change
        ours, others = gpu_loss.loss(self._reader.answers)
        words = [change.impact] if change.impact else []
        if self.of(change) == EVERY:
            why = f": a daemon-reload takes the cards of {ours}" if ours else ""
            words.append(f"takes every instance of this host out meanwhile{why}")
        if others:
            words.append(f"a daemon-reload takes the cards of {others}, not ours: make each anew afterwards")
        return dataclasses.replace(change, impact="; ".join(words))

    def refuse_others(self, change: Change, out: frozenset[str]) -> None:
        """Make sure that a change disrupts no instance with requests.

        Args:
            change: as the host is now.
            out: names of the instances without requests, or `EVERY`.

        Raises:
            HostError: the change would, because the host changed meanwhile.
        """
        names = frozenset() if creates(change) else self.of(change)
        if out != EVERY and not names <= out:
            cut = "all instances" if names == EVERY else ", ".join(sorted(names))
            raise HostError(
                f"{change.step.id} would cut the streams of {cut} now, because the host changed meanwhile",
                "run the command again: the run takes these instances out of the upstream first",
            )

    def _may_serve(self) -> bool:
        """Whether an instance may be running, by the latest reads."""
        answers = self._reader.latest
        return any(may_run(entry, answers) for entry in self._reader.steps.containers)

    def _reload_is_safe(self) -> bool:
        """Whether containers keep their cards over a daemon-reload, by the latest reads; reads the missing facts
        now."""
        steps = self._reader.steps
        if not steps.host.gpu:
            return True
        self._reader.take_missing(gpu_loss.reads(steps.entries))
        return gpu_loss.are_safe(steps.entries, self._reader.answers)


def _copied(change: Change, store: Store) -> Change:
    """Return a change with the cost of a copy, if every artifact of the change is in the store."""
    artifacts = [command for command in change.commands if isinstance(command, Obtain)]
    if not artifacts or any(store.find(command.key) is None for command in artifacts):
        return change
    titles = ", ".join(command.title or command.key for command in artifacts)
    return dataclasses.replace(change, impact=f"copies {titles}, which is built already")
