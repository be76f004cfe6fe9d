"""One host's turn: its instances that are out of the upstream, and the test that each must pass to get back in."""

from collections.abc import Callable, Collection, Mapping

from provision.errors import CommandError, HostError
from provision.inventory import Host
from provision.rollout.budget import Rolling
from provision.runs.context import Context, Stopped
from provision.runs.lease import Lease
from provision.ssh.session import Session
from provision.steps.base import EVERY
from provision.steps.nginx.upstream import label
from provision.steps.ollama import readiness

CONTAINERS = "ollama"  # the role that removes what is no longer declared; a run without it leaves that as it is

Say = Callable[[str, str, str], None]
"""Is told what happens: kind, step, text."""


class Turn:
    """Takes instances of one host out of the upstream, and gives them back.

    Args:
        host: the host.
        session: its connection.
        lease: its lock.
        rolling: shared by all hosts of the run.
        context: likewise.
        say: is told what happens.
    """

    def __init__(
        self, host: Host, session: Session, lease: Lease, rolling: Rolling, context: Context, say: Say
    ) -> None:
        self.host = host
        self.session = session
        self.lease = lease
        self.rolling = rolling
        self.context = context
        self.say = say
        self.failed = False
        """Whether something failed while an instance was out: the host's other instances are not concerned."""
        self.made: set[str] = set()
        """Names of instances that were not there and were made, or would have been."""
        self.refused: Mapping[str, str] = {}
        """Instance -> why it cannot be worked on."""
        self._asked: frozenset[str] = frozenset()
        self._out: dict[str, str] = {}  # label -> name
        self._held: dict[str, str] = {}  # likewise
        self._cardless: set[str] = set()  # labels of those that cannot serve, either
        self._gone: set[str] = set()  # labels that are no longer declared, and were taken out
        self._placed: set[str] = set()  # labels of what took their place

    @property
    def out(self) -> tuple[str, ...]:
        """Names of the instances that are out."""
        return tuple(self._out.values())

    def refuse(self, refused: Mapping[str, str], lost: Collection[str]) -> None:
        """Know which instances of this host cannot be worked on, by the latest plan.

        Args:
            refused: instance -> why.
            lost: names of those that cannot serve either.
        """
        self.refused = refused
        labels = {label(self.host.name, one) for one in lost}
        self.rolling.lost.difference_update(self._cardless - labels)
        self.rolling.lost.update(labels)
        self._cardless = labels

    def covers(self, names: frozenset[str]) -> bool:
        """Whether these need not be taken out any more: they are, or nothing is sent to them."""
        return self._asked == EVERY or names <= self._asked

    def take(self, names: frozenset[str], step: str) -> bool:
        """Take instances out: wait for the turn, then for their streams to end.

        Args:
            names: instances, or `EVERY`; none is out yet.
            step: id of the step that needs it.

        Returns:
            whether there was any that got requests.
        """
        found = self.rolling.served(self.host, names)
        self._asked = names
        if not found.at:
            return False

        def pause(text: str) -> None:
            self.say("progress", step, text)
            self.lease.renew()
            self._stop_before(step)

        for name in self._gone:  # two hosts that both hold one and want another would wait for each other for ever
            self.rolling.drop(name)
        self.rolling.begin(found, pause)
        self._out = {name: name.rpartition("/")[2] for name in found.at}
        self._held = {name: instance for name, instance in self._held.items() if name not in self._out}
        self._stop_before(step)
        self.rolling.drain(found, pause, lambda text: self.say("progress", f"drain:{', '.join(found.at)}", text))
        self._stop_before(step)
        return True

    def hold_back(self, instance: str) -> bool:
        """Have no balancer send to an instance that is about to be made: it has no model yet. See `Holding`.

        Args:
            instance: its name.

        Returns:
            whether one did, and this took its time.
        """
        self.made.add(instance)
        name = label(self.host.name, instance)
        if not self.rolling.holding.hold(self.host, name):
            return False
        self._held[name] = instance
        self.lease.renew()
        return True

    def admit(self) -> None:
        """Test what was held back, now that it has all it needs, and have the balancers send to it.

        Raises:
            HostError: an instance failed its test and stays out, or a balancer could not be told.
        """
        self.hand_over()
        held, self._held = self._held, {}
        for name, instance in sorted(held.items()):
            if not any(one.name == instance for one in self.host.instances):
                continue  # it came back by a rollback, without its models
            self.rolling.readmit(self.host, name, self._proved(name, instance))
            self._placed.add(name)

    def hand_over(self, unfinished: Collection[str] = ()) -> None:
        """Have the balancers send to what was made instead of what is gone, one for one.

        What an operator renames is gone under its old label, and unknown to the balancers under the new one until the
        last wave: until then all hosts could be out at once.

        Args:
            unfinished: names of instances for which something is still to be done: they cannot serve yet.

        Raises:
            HostError: one failed its test, or a balancer could not be told.
        """
        made = {label(self.host.name, one.name): one.name for one in self.host.instances if one.name in self.made}
        here = {*self._held, *self._placed}
        new = [name for name, instance in made.items() if name not in here and instance not in unfinished]
        for old, name in zip(sorted(self._gone), new, strict=False):
            at = self._proved(name, made[name])
            self._gone.remove(old)
            self._placed.add(name)
            self.rolling.hand_over(self.host, old, name, at)

    def end(self) -> None:
        """The host's part is over: what is gone keeps no other host waiting.

        No other may go the same way, if something was made to take its place and did not.
        """
        whole = self.made <= {name.rpartition("/")[2] for name in self._placed}
        for name in self._gone:
            if whole:
                self.rolling.drop(name)
            else:
                self._lost(name)
        self._gone = set()

    def _lost(self, name: str) -> None:
        self.rolling.leave(name, f"{name} is gone, and nothing took its place")

    def _proved(self, name: str, instance: str) -> str:
        """`ADDRESS:PORT` of an instance that passed its test; one that does not is left out, and halts the roll."""
        try:
            return self.test(instance)
        except HostError as error:
            self.failed = True
            self.rolling.leave(name, error.message)
            raise

    def drop(self, instance: str) -> None:
        """Leave an instance out without a test: it is not there, and will be made.

        Args:
            instance: its name.
        """
        name = label(self.host.name, instance)
        self._out.pop(name, None)
        self.rolling.drop(name)

    def _stop_before(self, step: str) -> None:
        """Leave the host as it is, if that is wished: nothing has been changed for this step yet."""
        if self.context.stop.is_set():
            raise Stopped(f"stopped before {step}", "run it again to go on")

    def give_back(self) -> None:
        """Test what is out, and give back what is well.

        Raises:
            HostError: an instance is not; it stays out, and the roll is halted.
        """
        first: HostError | None = None
        for name, instance in sorted(self._out.items()):
            error = self._given_back(name, instance)
            first = first or error
        self._asked, self._out = frozenset(), {}
        if first is not None:
            self.failed = True
            raise first

    def abandon(self) -> None:
        """After an error: give back what is well nevertheless; the error is told, and not what is wrong by it."""
        self.failed = self.failed or bool(self._out)
        for name, instance in sorted(self._out.items()):
            if self.context.cut.is_set():  # no test of half an hour: the next deploy does it
                self.rolling.leave(name, f"{name} was left out of the upstream")
            else:
                self._given_back(name, instance)
        for name in self._gone:
            self._lost(name)
        self._asked, self._out, self._gone = frozenset(), {}, set()

    def test(self, instance: str) -> str:
        """Have an instance prove that it can serve.

        Args:
            instance: its name.

        Returns:
            `ADDRESS:PORT` where it did.

        Raises:
            HostError: it did not.
        """
        models = next((one.models for one in self.host.instances if one.name == instance), ())
        command = readiness.command(instance, models, any_model=not self.context.brings_models)
        self.say("progress", f"test:{instance}", str(command))
        held = [self.lease.acquire(command.timeout)] if self.lease.held else []
        *taken, answer = self.session.batch([*held, command], stop=False)
        for one in taken:
            self.lease.took(one)
        if answer.exit:
            name = label(self.host.name, instance)
            raise CommandError(
                f"{name} is not fit to serve and stays out of the upstream: {_first(answer.error)}",
                "mend it, then deploy again: it gets back in when it passes its test",
                step=f"test:{instance}",
                command=str(command),
                exit_status=answer.exit,
                stderr=answer.error[-4000:],
            )
        return readiness.place(answer)

    def _given_back(self, name: str, instance: str) -> HostError | None:
        """Test an instance and give it back; the error if it stays out."""
        declared = any(one.name == instance for one in self.host.instances)
        if not declared and CONTAINERS in self.context.roles:
            self._gone.add(name)  # it counts as out until something takes its place
            return None
        try:
            at = self.test(instance)
        except HostError as error:
            self.rolling.leave(name, error.message)
            return error
        try:
            self.rolling.back(name, at)
        except HostError as error:
            return error
        return None


def _first(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[0][:300]
