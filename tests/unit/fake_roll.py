"""A roll without hosts: balancers are dictionaries, and a test decides which instances pass."""

import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

from provision.artifacts.store import Store
from provision.command import Answer
from provision.errors import LockedError, UnreachableError
from provision.inventory import Connection, Host, Instance, Inventory
from provision.roles import ollama
from provision.rollout.roll import Roll
from provision.rollout.traffic import HostTraffic
from provision.runs.context import Context
from provision.steps.nginx.upstream import Member


def gpu(name: str, models: tuple[tuple[str, ...], ...] = (("m",), ("m",)), **settings: Any) -> Host:
    """A gpu host with the instances `ollama1`, `ollama2` and so on.

    Args:
        name: its name.
        models: of each instance, the models that it serves.
        settings: of the role `ollama`.
    """
    section = ollama.Settings(**settings)
    serving = ollama.serving(section)
    instances = tuple(
        Instance(host=name, name=f"ollama{n}", gpus=(n,), port=3000 + n, models=served, **vars(serving))
        for n, served in enumerate(models, 1)
    )
    return Host(
        name=name,
        groups=("gpu",),
        connection=Connection(address=name),
        settings={"ollama": section},
        instances=instances,
        undeclared=serving,
    )


def balancer(name: str) -> Host:
    """A balancer."""
    return Host(name=name, groups=("balancer",), connection=Connection(address=name))


class FakePool:
    """The upstream of a balancer, as a dictionary; for many threads.

    Args:
        host: the balancer.
    """

    def __init__(self, host: Host, *_: Any) -> None:
        self.host = host
        self.context = cast(Any, _[1] if len(_) > 1 else None)
        self.session = SimpleNamespace(close=lambda: None)
        self.touched = False
        self.locked = False
        self.unreachable = False
        self.lost_while_waiting = False
        """Whether the connection ends during the wait for streams."""
        self.taken = False
        """Whether somebody else has its lock."""
        self.listed: dict[str, int] = {}
        """Label -> port."""
        self.down: set[str] = set()
        self.drained: set[str] = set()
        self.nowhere: set[str] = set()
        """Labels of the members whose address is not known yet."""
        self.sent_to: dict[str, str] = {}
        """Label -> `ADDRESS:PORT` with which it was given back last."""
        self.streams: list[tuple[int, bool]] = []
        """What the next looks at the connections say: how many there are, and whether the instances answer."""
        self.awaited: list[list[str]] = []
        """The addresses whose streams were waited for."""
        self.looks = 0
        self.watch: Callable[[FakePool, frozenset[str], frozenset[str]], None] = lambda pool, down, lost: None
        """Is told the labels that are marked, and those of them that got requests until now; nobody else may change
        the upstream meanwhile."""
        self._changing = threading.RLock()

    def members(self) -> dict[str, Member]:
        self.looks += 1
        if self.unreachable:
            raise UnreachableError("no route")
        with self._changing:
            out = self.down | self.drained
            return {
                label: Member(
                    "192.0.2.1" if label in self.nowhere else "10.0.0.1", port, label in out, label in self.drained
                )
                for label, port in self.listed.items()
            }

    def update(
        self,
        *,
        down: Collection[str] = (),
        up: Mapping[str, Any] = MappingProxyType({}),
        drain: Mapping[str, Any] = MappingProxyType({}),
        undrain: Collection[str] = (),
    ) -> bool:
        if self.unreachable:
            raise UnreachableError(f"{self.host.name}: lost")
        if self.taken:
            raise LockedError(f"{self.host.name}: somebody is at work")
        with self._changing:
            before = self.down, self.drained
            self.down = (self.down | (set(down) & self.listed.keys())) - set(up)
            self.drained = (self.drained | set(drain)) - set(undrain)
            self.sent_to |= {label: getattr(place, "at", place) for label, place in up.items()}
            self.watch(self, frozenset(down), frozenset(self.down - before[0] - self.drained))
            changed = before != (self.down, self.drained)
        self.touched = self.touched or changed
        return changed

    def wait_idle(self, addresses: Any, deadline: float, waiting: Callable[[int], None]) -> tuple[int, bool]:
        self.awaited.append(list(addresses))
        if self.lost_while_waiting:
            raise UnreachableError(f"{self.host.name}: lost")
        while True:
            count, answers = self.streams.pop(0) if self.streams else (0, True)
            if not (count and answers) or time.monotonic() >= deadline:
                return count, answers
            waiting(count)

    def finish(self) -> None:
        """There is no lock to give back."""


class FakeSession:
    """The connection to a gpu host with healthy instances.

    Args:
        ill: names of the instances that fail the test.
    """

    def __init__(self, ill: Collection[str] = ()) -> None:
        self.ill = set(ill)
        self.ran: list[Any] = []
        """What it was to run."""
        self.proved: list[str] = []
        """Names of the instances that were tested, in this order."""
        self.testing: Callable[[str], None] = lambda name: None
        """Called with the name of an instance before its test."""
        self.says = ""
        """Further lines of a passed test."""
        self.closed = threading.Event()

    def close(self) -> None:
        """Note that the connection was closed."""
        self.closed.set()

    def batch(self, commands: Any, *, stop: bool) -> list[Answer]:
        self.ran += commands
        return [self._answer(command) for command in commands]

    def _answer(self, command: Any) -> Answer:
        words = str(command).split()
        if words[0] != "test":
            return Answer(0, b"", b"")
        name = words[1].rstrip(":")
        self.testing(name)
        self.proved.append(name)
        if name in self.ill:
            return Answer(1, b"", f"{name} does not answer".encode())
        return Answer(0, f"{self.says}at 10.0.0.1:300{name[-1]}\n".encode(), b"")


class FakeLease:
    """The lock of a gpu host."""

    def __init__(self) -> None:
        self.held = False
        self.taken = False
        """Whether somebody else has it."""
        self.ends = 0
        """How often it was given back."""
        self.waits: list[float] = []
        """The longest waits for somebody else's lock, in seconds."""

    def renew(self) -> None:
        """There is no host."""

    def acquire(self, seconds: float = 0.0) -> str:
        self.held = True
        return "lock"

    def took(self, answer: Answer) -> None:
        if self.taken:
            self.held = False
            raise LockedError("a is locked by somebody")

    def wait(self, answer: Answer, seconds: float, stop: Any, say: Callable[[str], None]) -> bool:
        self.waits.append(seconds)
        self.took(answer)
        return False

    def end(self) -> None:
        self.held = False
        self.ends += 1


def roll(
    folder: Path,
    *hosts: Host,
    balancers: int = 1,
    roles: frozenset[str] = frozenset({"ollama", "models"}),
    make: Any = FakePool,
    listen: Any = lambda event: None,
) -> Roll:
    """A roll over these gpu hosts; every balancer lists all of their instances.

    Args:
        folder: where nothing is kept.
        hosts: gpu hosts.
        balancers: how many there are; their names are `lb-0`, `lb-1` and so on.
        roles: of the run.
        make: makes a pool.
        listen: of the run.
    """
    inventory = Inventory(path="", hosts=(*hosts, *(balancer(f"lb-{n}") for n in range(balancers))))
    context = Context("run", inventory, roles, listen, Store(folder))
    made = Roll.of(context, make=make)
    for host in hosts:
        for pool in pools(made, host):
            pool.listed |= {f"{host.name}/{instance.name}": instance.port for instance in host.instances}
    return made


def pools(made: Roll, host: Host) -> list[FakePool]:
    """The pools of a host's balancers."""
    return cast(list[FakePool], made.pools.of(host))


def pool_of(made: Roll) -> FakePool:
    """The only pool of a roll."""
    (only,) = made.pools.known
    return cast(FakePool, only)


class Said:
    """Notes what a host says."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, kind: str, step: str, text: str) -> None:
        self.texts.append(text)


def traffic(made: Roll, host: Host, *, ill: Collection[str] = (), say: Any = None) -> HostTraffic:
    """The traffic of a gpu host.

    Args:
        made: the roll.
        host: the host.
        ill: names of its instances that do not prove themselves.
        say: is told what happens.
    """
    return HostTraffic(host, cast(Any, FakeSession(ill)), cast(Any, FakeLease()), made, say or Said())
