"""Hosts that are asked again and again over kept connections, each in its own time. A host without an answer delays no
other host, as long as fewer hosts than `forks` hang."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from provision.errors import BugError, HostError
from provision.inventory import Host, Mask
from provision.ssh.transport import Transport

T = TypeVar("T")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """The latest answers of a host.

    Args:
        answer: the last answer; None for a host that has never answered.
        at: when the answer came, by the clock of the poll; None without an answer.
        error: the error of the last question; None after an answer, and before the first question has ended.
    """

    answer: T | None = None
    at: float | None = None
    error: HostError | None = None


class Poll(Generic[T]):
    """Asks hosts, and keeps the connections.

    Args:
        hosts: the hosts.
        work: asks one host; may raise HostError.
        connect: makes the transport to a host.
        forks: hosts at the same time.
        clock: returns seconds; for the age of answers.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        work: Callable[[Host, Transport], T],
        connect: Callable[[Host], Transport],
        forks: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.clock = clock
        self._hosts = {host.name: host for host in hosts}
        self._work = work
        self._connect = connect
        self._transports: dict[str, Transport] = {}
        self._answers: dict[str, Answered[T]] = {name: Answered() for name in self._hosts}
        self._asking: set[str] = set()
        self._changed = threading.Condition()
        self._todo: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # None ends a thread
        self._forks = max(1, min(forks, len(hosts)))
        self._threads: list[threading.Thread] = []

    @property
    def answers(self) -> Mapping[str, Answered[T]]:
        """Host -> its latest answers."""
        with self._changed:
            return dict(self._answers)

    def ask(self) -> None:
        """Begin to ask every host that is not being asked."""
        self._start()
        with self._changed:
            idle = [name for name in self._hosts if name not in self._asking]
            self._asking.update(idle)
        for name in idle:
            self._todo.put(name)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until every asked host has answered or failed.

        Args:
            seconds: seconds to wait at most; None for no limit.

        Returns:
            whether no host is being asked any more.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while self._asking:
                left = 1.0 if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 1.0))  # Ctrl-C arrives between two waits
        return True

    def rounds(
        self, seconds: float, sleep: Callable[[float], None] = time.sleep
    ) -> Iterator[Mapping[str, Answered[T]]]:
        """Yield the latest answers of all hosts, again and again, without an end.

        Args:
            seconds: between two rounds. A host that takes longer is asked again later.
            sleep: waits for a number of seconds.
        """
        while True:
            begun = time.monotonic()
            self.ask()
            self.wait(seconds)
            yield self.answers
            if (left := begun + seconds - time.monotonic()) > 0:
                sleep(left)

    def close(self) -> None:
        """Cut all connections, and end the threads. An error of a host that is being asked is heard by nobody."""
        with self._changed:
            transports = list(self._transports.values())
        for _ in self._threads:
            self._todo.put(None)
        for transport in transports:
            transport.close()

    def _start(self) -> None:
        """Start the threads. They are daemons: a connection attempt cannot be cut, and must not delay the end."""
        while len(self._threads) < self._forks:
            thread = threading.Thread(target=self._serve, daemon=True, name="host")
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        while (name := self._todo.get()) is not None:
            found = self._one(self._hosts[name])
            with self._changed:
                self._answers[name] = found
                self._asking.discard(name)
                self._changed.notify_all()

    def _one(self, host: Host) -> Answered[T]:
        """Ask one host; a failed host keeps its last answer."""
        before = self._answers[host.name]
        transport: Transport | None = None
        try:
            transport = self._transport(host)
            return Answered(self._work(host, transport), self.clock())
        except HostError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a bug on one host must not hide the answers of other hosts
            failure = BugError(error)
        if transport is not None:
            transport.close()
        return Answered(before.answer, before.at, failure.masked(Mask(host.secrets())))

    def _transport(self, host: Host) -> Transport:
        with self._changed:
            if host.name not in self._transports:
                self._transports[host.name] = self._connect(host)
            return self._transports[host.name]
