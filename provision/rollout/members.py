"""The membership of every instance that a run touches: one table, changed by named transitions under one lock.

Drained instances are not in this table: the balancers keep the mark of an operator, because the mark outlives runs.
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
    """Instances of one host that get requests and go out together: their claim on the disruption budget.

    Args:
        host: the host of the instances.
        step: id of the step that needs the instances out.
        at: label -> `ADDRESS:PORT`.
        pools: the balancers that send to the instances.
        models: label -> models. An instance without models counts for a model without a name.
        down: labels of instances that get no requests now, because an earlier run left them out.
        blockers: labels that were out when the slot did not fit, for the operator.
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
        """Names of the balancers: instances behind different balancers cannot replace each other."""
        return tuple(pool.host.name for pool in self.pools)

    @property
    def instances(self) -> tuple[str, ...]:
        """Names of the instances on their host."""
        return tuple(label.rpartition("/")[2] for label in self.at)


class Members:
    """The table. Safe for many threads."""

    def __init__(self) -> None:
        self.halted = ""
        """Why no more instances are taken out; empty while all is well."""
        self.recovered: set[str] = set()
        """Labels of instances that an earlier run left out, and this run admitted."""
        self.admissions = 0
        """Number of admissions so far."""
        self._states: dict[str, Membership] = {}
        self._slots: dict[str, Slot] = {}
        self._unusable: dict[str, frozenset[str]] = {}
        self._lock = threading.Lock()

    def state(self, label: str) -> Membership | None:
        """Return the membership of an instance; None for an instance that this run has not touched."""
        return self._states.get(label)

    def labels(self, *states: Membership) -> frozenset[str]:
        """Return the labels of the instances in some states."""
        with self._lock:
            return frozenset(label for label, state in self._states.items() if state in states)

    def out(self, scope: tuple[str, ...]) -> dict[str, Slot]:
        """Return label -> slot of the instances that use up the budget.

        Args:
            scope: names of the balancers that send to the instances.
        """
        with self._lock:
            return {label: slot for label, slot in self._slots.items() if slot.scope == scope}

    @property
    def unusable(self) -> frozenset[str]:
        """Labels of instances with a lost card: nothing waits for an unusable instance, and none is taken out."""
        with self._lock:
            return frozenset(label for labels in self._unusable.values() for label in labels)

    def lost_cards(self, host: str, labels: Collection[str]) -> None:
        """Note the instances of a host with a lost card, by the latest plan."""
        with self._lock:
            self._unusable[host] = frozenset(labels)

    def reserve(self, slot: Slot) -> None:
        """Count instances as out from now on, just before they go out."""
        with self._lock:
            self._slots.update(dict.fromkeys(slot.at, slot))

    def release(self, slot: Slot) -> None:
        """Stop counting instances that do not go out after all."""
        with self._lock:
            for label in slot.at:
                self._slots.pop(label, None)

    def cordon(self, slot: Slot) -> None:
        """Note that instances go out, in a reserved slot."""
        with self._lock:
            self._states.update(dict.fromkeys(slot.at, Membership.CORDONED))

    def hold(self, label: str) -> None:
        """Note that a new instance is made under a label that balancers list already."""
        self._end(label, Membership.NEW)

    def admit(self, label: str) -> None:
        """Note that an instance passed its test and gets requests."""
        self._end(label, Membership.IN)
        with self._lock:
            self.admissions += 1

    def leave_out(self, label: str, why: str, *, halts: bool = True) -> None:
        """Note that an instance stays out.

        Args:
            label: the label of the instance.
            why: the reason, for the operator.
            halts: whether to halt the roll. An instance that an earlier run left out halts nothing.
        """
        self._end(label, Membership.NOT_READY)
        if halts:
            self.halt(why)

    def halt(self, why: str) -> None:
        """Take no more instances out in this run. The first reason counts."""
        self.halted = self.halted or why

    def remove(self, label: str, *, succeeded: bool) -> None:
        """Note that an instance is gone and no longer declared.

        Args:
            label: the label of the instance.
            succeeded: whether a new instance replaces this instance in the last wave. Until then the slot stays taken.
        """
        with self._lock:
            self._states[label] = Membership.REMOVED
            if not succeeded:
                self._slots.pop(label, None)

    def forget(self, label: str) -> None:
        """Forget an instance. The balancers keep its marks."""
        with self._lock:
            self._states.pop(label, None)
            self._slots.pop(label, None)

    def _end(self, label: str, state: Membership) -> None:
        with self._lock:
            self._states[label] = state
            self._slots.pop(label, None)
