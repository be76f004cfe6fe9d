"""Where every instance stands that a run has to do with: one table, changed by named transitions under one lock.

A drained instance is the balancers' knowledge, and not in this table: an operator's wish outlives runs.
"""

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum

from provision.inventory import Host
from provision.rollout.balancer_pool import BalancerPool


class Membership(Enum):
    """Whether an instance gets requests."""

    IN = "it has proved itself in this run, and gets requests"
    CORDONED = "this run took it out, and gives it back when it has proved itself"
    NEW = "this run makes it, and no balancer sends to it before it has proved itself"
    NOT_READY = "it did not prove itself, and stays out"
    REMOVED = "it is not declared any more, and this run took it out"


@dataclass
class Slot:
    """Instances of one host that get requests and are to go out together, and the room that they take in the budget.

    Args:
        host: their host.
        step: id of the step that needs them out.
        at: label -> `ADDRESS:PORT`.
        pools: the balancers that send to them.
        models: label -> its models; an instance without any counts as one of the model without a name.
        down: labels of those that get no requests now, because an earlier run left them out.
        blockers: what else was out when there was no room for them, for the operator.
    """

    host: Host
    step: str
    at: Mapping[str, str]
    pools: tuple[BalancerPool, ...]
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    down: frozenset[str] = frozenset()
    blockers: tuple[str, ...] = ()

    @property
    def scope(self) -> tuple[str, ...]:
        """The balancers' names: instances behind other balancers are no substitute for each other."""
        return tuple(pool.host.name for pool in self.pools)

    @property
    def instances(self) -> tuple[str, ...]:
        """Names of the instances on their host."""
        return tuple(label.rpartition("/")[2] for label in self.at)


class Members:
    """The table. Safe for many threads."""

    def __init__(self) -> None:
        self.halted = ""
        """Why no other instance is taken out any more; empty while all is well."""
        self.recovered: set[str] = set()
        """Labels of instances that an earlier run left out, and that get requests again."""
        self.admissions = 0
        """How often an instance got its requests back."""
        self._states: dict[str, Membership] = {}
        self._slots: dict[str, Slot] = {}
        self._unusable: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    def state(self, label: str) -> Membership | None:
        """Where an instance stands; None for one that this run has nothing to do with."""
        return self._states.get(label)

    def labels(self, *states: Membership) -> frozenset[str]:
        """Labels of the instances in these states."""
        with self._lock:
            return frozenset(label for label, state in self._states.items() if state in states)

    def out(self, scope: tuple[str, ...]) -> dict[str, Slot]:
        """Label -> slot of the instances that take room in the budget.

        Args:
            scope: names of the balancers that send to them.
        """
        with self._lock:
            return {label: slot for label, slot in self._slots.items() if slot.scope == scope}

    @property
    def unusable(self) -> frozenset[str]:
        """Labels of instances that lost a card: nobody waits for them, and none of them is taken out."""
        with self._lock:
            return frozenset(label for labels in self._unusable.values() for label in labels)

    def lost_cards(self, host: str, labels: Collection[str]) -> None:
        """Know which instances of a host lost a card, by its latest plan."""
        with self._lock:
            self._unusable[host] = frozenset(labels)

    def reserve(self, slot: Slot) -> None:
        """Instances are about to go out: they take room from now on."""
        with self._lock:
            self._slots.update(dict.fromkeys(slot.at, slot))

    def release(self, slot: Slot) -> None:
        """Instances do not go out after all."""
        with self._lock:
            for label in slot.at:
                self._slots.pop(label, None)

    def cordon(self, slot: Slot) -> None:
        """Instances go out, in the room that is reserved for them."""
        with self._lock:
            self._states.update(dict.fromkeys(slot.at, Membership.CORDONED))

    def hold(self, label: str) -> None:
        """An instance is made where balancers list it already."""
        self._end(label, Membership.NEW)

    def admit(self, label: str) -> None:
        """An instance proved itself, and the balancers send to it."""
        self._end(label, Membership.IN)
        with self._lock:
            self.admissions += 1

    def leave_out(self, label: str, why: str, *, halts: bool = True) -> None:
        """An instance stays out.

        Args:
            label: its label.
            why: what is wrong with it.
            halts: whether this run takes no other instance out any more: it does not for what an earlier run left out.
        """
        self._end(label, Membership.NOT_READY)
        if halts:
            self.halt(why)

    def halt(self, why: str) -> None:
        """No other instance is taken out any more in this run; the first reason counts."""
        self.halted = self.halted or why

    def remove(self, label: str, *, succeeded: bool) -> None:
        """An instance that is not declared any more is gone.

        Args:
            label: its label.
            succeeded: whether another instance takes its place, in the last wave: until then its room stays taken.
        """
        with self._lock:
            self._states[label] = Membership.REMOVED
            if not succeeded:
                self._slots.pop(label, None)

    def forget(self, label: str) -> None:
        """This run has nothing more to do with an instance; balancers keep it as it is."""
        with self._lock:
            self._states.pop(label, None)
            self._slots.pop(label, None)

    def _end(self, label: str, state: Membership) -> None:
        with self._lock:
            self._states[label] = state
            self._slots.pop(label, None)
