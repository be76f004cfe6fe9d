"""Taking instances out by hand, until they are given back: recorded on the balancers, not on the instance's host."""

import datetime as dt
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from provision import lock
from provision.context import Context, Stopped
from provision.errors import HostError, UsageError
from provision.events import Event
from provision.inventory import Host, Inventory, Mask, duration_seconds
from provision.lease import Lease
from provision.marker import Marker
from provision.rolling import Rolling
from provision.ssh import Session
from provision.steps import endpoint
from provision.steps.upstream import Drained, label
from provision.turn import Turn

HINT = "deploy first: an instance that is in no upstream gets no requests anyway"


@dataclass
class Drain:
    """What became of one host: a balancer that was told, or one whose instances were to prove themselves.

    Args:
        host: its name.
        labels: the instances that it was about.
        changed: whether anything was to be changed.
        error: what failed, or None.
    """

    host: str
    labels: tuple[str, ...] = ()
    changed: bool = False
    error: HostError | None = None


class Draining:
    """Drains instances, or gives them back.

    Args:
        context: the inventory, the run's id and who is told.
        become_password: sudo's password (`-K`), or None for the inventory's.
        words: `HOST` or `HOST/INSTANCE`.

    Raises:
        UsageError: there is none of these.
    """

    def __init__(self, context: Context, become_password: str | None, words: Sequence[str]) -> None:
        self.context = context
        self.chosen = _chosen(context.inventory, words)
        self._password = become_password
        self._rolling = Rolling(context, become_password)

    def drain(self, why: str, timeout: float | None) -> list[Drain]:
        """Mark them on every balancer that sends to them, and wait for their streams to end.

        Args:
            why: shown to whoever looks; one line.
            timeout: seconds to wait; `ollama.drain_timeout` for None.
        """
        now = f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H:%M:%SZ}"
        said = Mask([one for host in self.context.inventory.hosts for one in host.secrets()])(why)
        records = [Drained(name, now, lock.who(), said) for name in self._labels()]
        if timeout is None:
            timeout = max(duration_seconds(endpoint.ollama(host).drain_timeout) for host, _ in self.chosen)
        deadline = time.monotonic() + timeout
        try:
            found = [self._marked(marker, records) for marker in self._markers()]
            for marker, (outcome, addresses) in zip(self._markers(), found, strict=True):
                if outcome.error is None:
                    self._await(marker, outcome, addresses, deadline)
        finally:
            self._rolling.finish()
        return [outcome for outcome, _ in found]

    def undrain(self) -> list[Drain]:
        """Have each instance prove itself, and give back those that do."""
        try:
            tested = [one for host, names in self.chosen for one in self._tested(host, names)]
            good = {name for one in tested if one.error is None for name in one.labels}
            back = [self._given_back(marker, good) for marker in self._markers()] if good else []
        finally:
            self._rolling.finish()
        return [*(one for one in tested if one.error), *back]

    def _labels(self) -> list[str]:
        return [label(host.name, name) for host, names in self.chosen for name in names]

    def _markers(self) -> list[Marker]:
        found = {one.host.name: one for host, _ in self.chosen for one in self._rolling.markers(host)}
        return [found[name] for name in sorted(found)]

    def _marked(self, marker: Marker, records: Iterable[Drained]) -> tuple[Drain, list[str]]:
        """Mark them on one balancer; and where it reaches them."""
        outcome = Drain(marker.host.name)
        try:
            members = marker.look()
            here = {one.label: one for one in records if one.label in members}
            outcome.labels = tuple(here)
            if not here:
                raise HostError(f"{marker.host.name}: none of these is in its upstream", HINT)
            outcome.changed = marker.mark(drain=here)
        except HostError as error:
            outcome.error = error
            return outcome, []
        return outcome, [members[name].at for name in here]

    def _await(self, marker: Marker, outcome: Drain, addresses: Sequence[str], deadline: float) -> None:
        """Wait until none of their streams is left on one balancer."""
        try:
            count, useful = marker.wait(addresses, deadline - time.monotonic())
            while count and useful and time.monotonic() < deadline:
                if self.context.stop.is_set():
                    raise Stopped("stopped while streams still run; nothing new is sent to them")
                self.context.listen(Event(marker.host.name, "progress", "drain", f"waiting: {count} streams still run"))
                count, useful = marker.wait(addresses, deadline - time.monotonic())
            if count and useful:
                hint = "nothing new is sent to them: drain again to wait on, or do what you came for and cut them"
                raise HostError(f"{marker.host.name}: {count} streams still run", hint)
        except HostError as error:
            outcome.error = error

    def _tested(self, host: Host, names: Sequence[str]) -> list[Drain]:
        session = Session(host.connection, self._password)
        lease = Lease(session, self.context.run_id)
        turn = Turn(host, session, lease, self._rolling, self.context, lambda kind, step, text: None)
        found = []
        for name in names:
            outcome = Drain(host.name, (label(host.name, name),))
            try:
                turn.test(name)
            except HostError as error:
                outcome.error = _hidden(error, host)
            found.append(outcome)
        session.close()
        return found

    def _given_back(self, marker: Marker, good: set[str]) -> Drain:
        outcome = Drain(marker.host.name)
        try:
            outcome.labels = tuple(sorted(good & set(marker.look())))
            outcome.changed = marker.mark(undrain=outcome.labels)
        except HostError as error:
            outcome.error = error
        return outcome


def _chosen(inventory: Inventory, words: Sequence[str]) -> list[tuple[Host, tuple[str, ...]]]:
    """The hosts, each with the instances of it that are meant, in the order of the inventory."""
    wanted = [word.partition("/")[::2] for word in words]
    hosts = {host.name: host for host in inventory.hosts if host.gpu}
    for name, instance in wanted:
        if name not in hosts:
            raise UsageError(f"no such gpu host: {name}", f"gpu hosts are {', '.join(hosts)}"[:500])
        known = [one.name for one in hosts[name].instances]
        if instance and instance not in known:
            raise UsageError(f"{name} has no instance {instance}", f"it has {', '.join(known)}")
    found = (
        (host, tuple(one.name for one in host.instances if {(host.name, ""), (host.name, one.name)} & set(wanted)))
        for host in hosts.values()
    )
    return [(host, names) for host, names in found if names]


def _hidden(error: HostError, host: Host) -> HostError:
    """The error without secrets."""
    hide = Mask(host.secrets())
    for name in ("message", "hint", "command", "stderr"):
        setattr(error, name, hide(getattr(error, name)))
    return error
