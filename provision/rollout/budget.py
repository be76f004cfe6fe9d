"""Taking running instances out of the upstream and giving them back: never more of a model at once than may be.

One `Rolling` is shared by all hosts of a run. An instance is out from the moment its balancers were told until it has
proved itself; one that does not is left out, and no other is taken out after it in this run. What earlier runs left out
counts too.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from provision.errors import HostError, RefusedError, UnreachableError
from provision.inventory import Host, topology
from provision.rollout.balancer_pool import Marker, tell_all
from provision.rollout.holding import Holding
from provision.rollout.replicas import Alike
from provision.runs.context import Context, Stopped
from provision.ssh.session import Session
from provision.steps.base import EVERY
from provision.steps.nginx.balancer_config import NOWHERE
from provision.steps.nginx.upstream import Member, Place, label

TICK = 1.0  # seconds between two looks at whether it is one's turn
LOOK = 5.0  # and between two at the balancers, while what an earlier run left out is waited for
KEEP = 30.0  # between two looks at whether the balancers' locks want to be renewed

Pause = Callable[[str], None]
"""Called while something is waited for, with what: keeps the host's lock, and raises when the run is to stop."""


@dataclass(frozen=True)
class Served:
    """Instances of one host that get requests, or would if they were well.

    Args:
        host: the host.
        at: label -> `ADDRESS:PORT`.
        markers: the balancers that send to them.
        models: label -> its models; what has none counts as one of the model without a name.
        down: those that get none now, because a run left them out.
    """

    host: Host
    at: Mapping[str, str]
    markers: tuple[Marker, ...]
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    down: frozenset[str] = frozenset()

    @property
    def scope(self) -> tuple[str, ...]:
        """The balancers' names: instances behind other balancers are no substitute for each other."""
        return tuple(marker.host.name for marker in self.markers)


class Rolling:
    """Who is out of the upstream in this run.

    Args:
        context: what it shares with the hosts.
        become_password: sudo's password for the balancers (`-K`), or None for the inventory's.
    """

    def __init__(self, context: Context, become_password: str | None = None) -> None:
        self.context = context
        self.halted = ""
        """Why no other instance is taken out any more; empty while all is well."""
        self.unfit: set[str] = set()
        """Labels of instances that were left out."""
        self.lost: set[str] = set()  # labels of instances that lost a card: neither waited for nor taken out
        self.prove: Callable[[str], bool] = lambda label: False
        """Has an instance that an earlier run left out prove itself, and gives it back; False if it stays out."""
        self.holding = Holding(self.markers)
        """What gets no requests before it can serve."""
        self._alike = Alike(context.inventory)
        self._proved: set[str] = set()
        self._password = become_password
        self._markers: dict[str, Marker] = {}
        self._out: dict[str, Served] = {}
        self._stuck: dict[str, set[str]] = {}  # host -> the hosts whose instances it waits for
        self._turn = threading.Condition()
        self._keeper: threading.Thread | None = None
        self._finished = threading.Event()

    @property
    def known(self) -> tuple[Marker, ...]:
        """The balancers that this run has had to do with so far."""
        return tuple(self._markers.values())

    def served(self, host: Host, names: frozenset[str]) -> Served:
        """Which of these instances get requests now, or will when they have proved themselves.

        Args:
            host: their host.
            names: instances, or `EVERY`.

        Raises:
            RefusedError: a balancer cannot be asked, and may send to them.
        """
        found: dict[str, str] = {}
        up: set[str] = set()
        markers = []
        for marker in self.markers(host):
            seen = _look(marker, host)
            members = {n: seen[n] for n in seen if n not in self.lost and _is_of(n, host, names)}
            markers += [marker] if members else []
            found.update({n: one.at for n, one in members.items() if not one.drained and one.address != NOWHERE})
            up.update(name for name, one in members.items() if not one.down)
        return Served(host, found, tuple(markers), self._alike.models(host, found), frozenset(found) - up)

    def waiting(self, hosts: Sequence[Host]) -> set[str]:
        """Labels that a run left out on these hosts' balancers. What of these cannot be asked is passed over.

        Args:
            hosts: gpu hosts.
        """
        found: set[str] = set()
        for marker in {one.host.name: one for host in hosts for one in self.markers(host)}.values():
            with contextlib.suppress(HostError):
                members = marker.look().items()
                found |= {n for n, one in members if one.down and not one.drained and one.address != NOWHERE}
        return found

    def readmit(self, host: Host, name: str, at: str, before: str = "") -> None:
        """Have the balancers send to an instance that was left out. It has proved itself.

        Args:
            host: its host.
            name: its label.
            at: `ADDRESS:PORT` where it did.
            before: label of one that is gone, and whose place it takes; empty where it has one of its own.

        Raises:
            HostError: a balancer could not be told; all others were.
        """
        tell_all(self.markers(host), lambda marker: self._up(marker, name, at, before))

    def hand_over(self, host: Host, old: str, name: str, at: str) -> None:
        """Have the balancers send to an instance instead of one that is gone. It has proved itself.

        Args:
            host: their host.
            old: label of what is gone.
            name: label of the other.
            at: `ADDRESS:PORT` where it did.

        Raises:
            HostError: a balancer could not be told; all others were, and the roll is halted.
        """
        with self._ending(old, name):
            self.readmit(host, name, at, old)

    def begin(self, served: Served, pause: Pause) -> None:
        """Wait until they may be taken out. From then on they count as out.

        Raises:
            Stopped: the roll was halted, or what is out already leaves no room for them.
        """
        try:
            while others := self._waits_for(served):
                pause(f"waiting: {_are(others)} out of the upstream")
        finally:
            with self._turn:
                self._stuck.pop(served.host.name, None)

    def drain(self, served: Served, pause: Pause, say: Pause) -> None:
        """Have every balancer send nothing more to them, and wait for the streams that still run.

        Args:
            served: instances whose turn has begun.
            pause: called while it waits.
            say: is told which streams are cut, if the longest wait is over.
        """
        for marker in served.markers:
            with self._about_balancer():
                marker.mark(down=served.at)
        self._keep()
        limit = served.host.serving.drain_timeout
        deadline = time.monotonic() + limit
        for marker in served.markers:
            count, useful = self._streams(marker, served, deadline)
            while count and useful and time.monotonic() < deadline:
                pause(f"waiting: {count} streams of {', '.join(served.at)} still run")
                count, useful = self._streams(marker, served, deadline)
            if count:
                why = f"after {limit:.0f} s" if useful else "it does not answer any more"
                say(f"waiting no longer: {count} streams through {marker.host.name} are cut ({why})")

    def _streams(self, marker: Marker, served: Served, deadline: float) -> tuple[int, bool]:
        with self._about_balancer():
            return marker.wait(list(served.at.values()), deadline - time.monotonic())

    @contextlib.contextmanager
    def _about_balancer(self) -> Iterator[None]:
        """A balancer that was lost does not make the gpu host, whose error it becomes, an unreachable one."""
        try:
            yield
        except UnreachableError as error:
            if self.context.cut.is_set():
                raise
            raise HostError(error.message, error.hint, command=error.command, stderr=error.stderr) from error

    def back(self, name: str, at: str) -> None:
        """Have its balancers send to an instance again. It has proved itself.

        Args:
            name: its label.
            at: `ADDRESS:PORT` where it did.

        Raises:
            HostError: a balancer could not be told; all others were, and the roll is halted.
        """
        with self._ending(name, name):
            tell_all(self._out[name].markers, lambda marker: self._up(marker, name, at))

    @contextlib.contextmanager
    def _ending(self, out: str, name: str) -> Iterator[None]:
        """What is out is so no longer after this; the roll is halted if it fails."""
        try:
            yield
        except HostError as error:
            error.message = f"{name} could not be given back: {error.message}"
            self.halted = self.halted or error.message
            raise
        finally:
            self.drop(out)

    def _up(self, marker: Marker, name: str, at: str, before: str = "") -> None:
        with self._about_balancer():
            marker.mark(up={name: Place(at, before or name)})

    def leave(self, name: str, why: str) -> None:
        """Leave an instance out, and take out no other in this run.

        Args:
            name: its label.
            why: what is wrong with it.
        """
        self.unfit.add(name)
        self.halted = self.halted or why
        self.drop(name)

    def drop(self, name: str) -> None:
        """The turn of an instance is over; its marks stay as they are.

        Args:
            name: its label.
        """
        with self._turn:
            self._out.pop(name, None)
            self._turn.notify_all()

    def close(self) -> None:
        """Cut the connections to the balancers."""
        for marker in list(self._markers.values()):
            marker.session.close()

    def finish(self) -> None:
        """Give the balancers' locks back."""
        self._finished.set()
        if self._keeper is not None:
            self._keeper.join(KEEP)
        for marker in self._markers.values():
            marker.finish()

    def markers(self, host: Host) -> list[Marker]:
        """The balancers that may send to a host's instances, by name."""
        with self._turn:
            found = sorted(topology.balancers(host, self.context.inventory), key=lambda one: one.name)
            for one in found:
                if one.name not in self._markers:
                    self._markers[one.name] = Marker(one, Session(one.connection, self._password), self.context)
            return [self._markers[one.name] for one in found]

    def _keep(self) -> None:
        """From now on renew the balancers' locks while instances are out: a model takes long to load and to test."""
        with self._turn:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._renew, name="renew", daemon=True)
                self._keeper.start()

    def _renew(self) -> None:
        while not (self._finished.wait(KEEP) or self.context.cut.is_set()):
            with self._turn:
                markers = {marker.host.name: marker for one in self._out.values() for marker in one.markers}
            for marker in markers.values():
                with contextlib.suppress(HostError):  # it is told when the instance gets back in
                    marker.renew()

    def _waits_for(self, served: Served) -> list[str]:
        """What is out and must be back first, after a while in which it may have come; nothing if they count as out."""
        with self._turn:
            if self.halted:
                raise Stopped(f"not taken out of the upstream: {self.halted}", "mend that, then deploy again")
            behind = {name: one for name, one in self._out.items() if one.scope == served.scope}
            others = {name: one for name, one in behind.items() if one.host is not served.host}  # its own are gone
            if not self._fits(served, others):
                self._turn.wait(TICK)
                return sorted(others)
            self._out.update(dict.fromkeys(served.at, served))  # so that only one at a time looks, and nothing moves
        down: dict[str, Member] | None = None
        try:
            down = self._in_the_way(served, others)
            proved = self._prove(served.host, down)
        finally:
            if down is None or down:
                for name in served.at:
                    self.drop(name)
        if proved:
            return sorted(down)
        return self._stay(served, down, others) if down else []

    def _prove(self, host: Host, down: Mapping[str, Member]) -> bool:
        """Test once what is out and may be well: a run that was killed left it so. Who is at work does that himself."""
        busy = self.context.begun - {host.name}
        may = [name for name, one in down.items() if not one.drained and name not in self._proved]
        chosen = [name for name in may if self._alike.host_of(name) not in busy]
        self._proved.update(chosen)
        found = [self.prove(name) for name in chosen]
        return True in found

    def _stay(self, served: Served, down: Mapping[str, Member], others: Mapping[str, Served]) -> list[str]:
        """Wait a while for what is down, as long as a host is at work that may bring it back.

        Raises:
            Stopped: none is.
        """
        with self._turn:
            coming = {self._alike.host_of(name) for name, one in down.items() if not one.drained}
            self._stuck[served.host.name] = coming | {one.host.name for one in others.values()}
            if not (set().union(*self._stuck.values()) & self.context.begun) - self._stuck.keys():
                names = [f"{name} (drained)" if one.drained else name for name, one in sorted(down.items())]
                why = f"{_are(names)} out of the upstream already, and more than max_unavailable would be"
                self.halted = self.halted or why
                hint = "bring it back, or drain what is to stay out, or allow more by ollama.max_unavailable"
                raise Stopped(f"not taken out of the upstream: {why}", f"{hint}; then deploy again")
        self.context.stop.wait(LOOK)
        return sorted(down)

    def _fits(self, served: Served, others: Mapping[str, Served]) -> bool:
        """Whether they may be out beside those that are. Alone, as many may be out as must be together."""
        out = [model for name, one in others.items() for model in one.models[name]]
        own = [model for models in served.models.values() for model in models]
        return all(
            out.count(model) + own.count(model) <= self._alike.allowed(served.host, model)
            for model in set(own) & set(out)
        )

    def _in_the_way(self, served: Served, others: Mapping[str, Served]) -> dict[str, Member]:
        """What is down already, and leaves no room for those of them that still get requests.

        What an operator drained is his wish, and counts only where without it none of the model would be left.
        """
        listed: dict[str, Member] = {}
        for marker in served.markers:
            found = _look(marker, served.host)
            listed.update({name: one for name, one in found.items() if one.down or name not in listed})
        gone = {name for name in listed if _is_of(name, served.host, EVERY)} - self._alike.declared(served.host)
        seen = {name: one for name, one in listed.items() if name not in {*served.at, *others, *gone, *self.lost}}
        out = [model for name, one in others.items() for model in one.models[name]]
        out += [model for models in served.models.values() for model in models]
        blocking: set[str] = set()
        for model in {model for name in served.at if name not in served.down for model in served.models[name]}:
            alike = self._alike.serving(model, listed) & seen.keys()
            drained = {name for name in alike if seen[name].drained}
            down = {name for name in alike - drained if seen[name].down}
            allowed = self._alike.allowed(served.host, model) - out.count(model)
            if down and len(down) > allowed:
                blocking |= down
            if drained == alike - down and drained and len(drained | down) > allowed:
                blocking |= drained
        return {name: seen[name] for name in blocking}


def _are(names: Iterable[str]) -> str:
    text = ", ".join(names)
    return f"{text} {'are' if ',' in text else 'is'}"


def _look(marker: Marker, host: Host) -> Mapping[str, Member]:
    try:
        return marker.look()
    except HostError as error:
        name = marker.host.name
        wrong = "cannot be reached" if isinstance(error, UnreachableError) else "cannot be read"
        raise RefusedError(
            f"{name} {wrong}, and may send to the instances of {host.name}: none of them is replaced",
            f"bring {name} back, or take it out of the inventory; then deploy again",
            command=error.command,
            stderr=error.stderr or error.message,
        ) from error


def _is_of(name: str, host: Host, names: frozenset[str]) -> bool:
    """Whether a label is one of a host's instances that are meant."""
    if names == EVERY:
        return name.rpartition("/")[0] == label(host.name, "").rstrip("/")
    return name in {label(host.name, one) for one in names}
