"""The logs of instances and balancers, from all hosts at once. Takes no lock and changes nothing."""

from __future__ import annotations

import queue
import re
import threading
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from provision.actions.results import Answers
from provision.errors import BugError, FactError, HostError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from provision.actions.request import Request
    from provision.inventory import Host, Inventory
    from provision.ssh.transport import Transport
    from provision.steps.system.log_lines import Line, Source

LINES = 100
"""Lines of each log, without a begin."""
SINCE_LINES = 1000
"""Lines of each log, with a begin."""
ROOM = 10_000  # lines that wait for the screen; then the hosts wait
AGAIN = 5.0  # seconds before a lost host is followed again
SHOWN = 500  # characters of a hint that lists names


@dataclass(frozen=True)
class Wanted:
    """The wanted lines.

    Args:
        lines: lines of each log from before; None for the usual number.
        since: earlier lines are left out, in seconds since 1970; None for any time.
        grep: extended regular expression of grep; empty for all lines.

    Raises:
        UsageError: a number or a pattern cannot be used.
    """

    lines: int | None = None
    since: int | None = None
    grep: str = ""

    def __post_init__(self) -> None:
        if len(self.grep) > 1000 or not self.grep.isprintable():
            raise UsageError("--grep takes one line of at most 1000 printable characters")

    @property
    def most(self) -> int:
        """Lines of each log."""
        return self.lines if self.lines is not None else LINES if self.since is None else SINCE_LINES


@dataclass(frozen=True)
class HostLine:
    """A line of a log of a host, or a remark about the host.

    Args:
        host: name of the host.
        line: the line; None for a remark.
        remark: about the host, such as a lost connection; empty for a line.
    """

    host: str
    line: Line | None = None
    remark: str = ""


@dataclass(frozen=True)
class Logs(Answers["Sequence[Line]"]):
    """The last lines of every selected log, or the error of the host."""

    @property
    def merged(self) -> Sequence[HostLine]:
        """The lines of all hosts by their times. A line without a time stands behind the line before."""
        placed: list[tuple[float, int, HostLine]] = []
        for host, answer in self.hosts:
            if isinstance(answer, HostError):
                continue
            times: dict[str, float] = {}
            for line in answer:
                times[line.source] = times.get(line.source, 0.0) if line.at is None else line.at
                placed.append((times[line.source], len(placed), HostLine(host.name, line)))
        return [line for _, _, line in sorted(placed, key=lambda each: each[:2])]


def logs(request: Request, words: Sequence[str], wanted: Wanted) -> Logs:
    """Read the last lines of logs, each host in one exec.

    Args:
        request: selects the hosts.
        words: `PATTERN` or `PATTERN/LOG`; none for all logs. A log is an instance, or `access` or `error` of a
            balancer.
        wanted: the wanted lines.

    Raises:
        UsageError: a word selects no log.
        InventoryError: the inventory has problems.
    """
    from provision.actions import asking, exit_code

    inventory, chosen = _chosen(request, words)

    def work(host: Host, session: Transport) -> Sequence[Line]:
        return _read(host, session, chosen[host.name], wanted)

    hosts = [host for host in inventory.hosts if host.name in chosen]
    answers = asking.on_each(request, hosts, work)
    errors = [answer for _, answer in answers if isinstance(answer, HostError)]
    return Logs(inventory, answers, exit_code.of_errors(errors))


def follow(request: Request, words: Sequence[str], wanted: Wanted) -> Iterator[HostLine]:
    """Yield the last lines of logs, and the lines that come, of all hosts as they come. A lost host is tried again.

    The caller ends the iteration, which ends the programs on the hosts.

    Args:
        request: selects the hosts.
        words: see `logs`.
        wanted: the wanted lines.

    Raises:
        UsageError: a word selects no log.
        InventoryError: the inventory has problems.
    """
    from provision.actions.asking import setup_of

    inventory, chosen = _chosen(request, words)
    setup = setup_of(request)
    hosts = [host for host in inventory.hosts if host.name in chosen]
    lines: queue.Queue[HostLine | None] = queue.Queue(ROOM)
    followers = [
        _Follower(host, chosen[host.name], wanted, setup.transport(host.connection, request.become_password), lines.put)
        for host in hosts
    ]
    try:
        for follower in followers:
            threading.Thread(target=follower.run, daemon=True, name=f"logs {follower.host.name}").start()
        left = len(followers)
        while left:
            try:
                line = lines.get(timeout=1.0)  # Ctrl-C arrives between two waits
            except queue.Empty:
                continue
            if line is None:
                left -= 1
            else:
                yield line
    finally:
        for follower in followers:
            follower.end()


def selected(inventory: Inventory, hosts: Sequence[Host], words: Sequence[str]) -> Mapping[str, tuple[Source, ...]]:
    """Return host -> its selected logs, of the hosts with selected logs.

    Args:
        inventory: all hosts.
        hosts: the hosts to look at.
        words: see `logs`.

    Raises:
        UsageError: a word selects no log.
    """
    from provision.inventory import patterns

    known = {host.name: sources(host, inventory) for host in hosts}
    found: dict[str, list[Source]] = {}
    for word in words or ["all"]:
        pattern, _, name = word.partition("/")
        try:
            matching = patterns.select(hosts, [pattern])
        except UsageError as error:
            names = ", ".join(host.name for host in hosts)
            raise UsageError(f"no such host: {pattern}"[:SHOWN], error.hint or f"hosts are {names}"[:SHOWN]) from None
        every = [(host.name, one) for host in matching for one in known[host.name]]
        pairs = [(host_name, one) for host_name, one in every if fnmatchcase(one.name, name or "*")]
        if not pairs:
            names = ", ".join(dict.fromkeys(one.name for _, one in every))
            hint = f"logs are {names or 'none'}"
            raise UsageError(f"{pattern} has no log {name or 'at all'}"[:SHOWN], hint[:SHOWN])
        for host_name, source in pairs:
            found.setdefault(host_name, []).append(source)
    return {name: tuple(dict.fromkeys(each)) for name, each in found.items()}


def sources(host: Host, inventory: Inventory) -> tuple[Source, ...]:
    """Return the logs of a host: one of each instance, and those of a balancer.

    Args:
        host: one host of the inventory.
        inventory: all hosts.
    """
    from provision.inventory import topology
    from provision.steps.nginx import log_files
    from provision.steps.system.log_lines import Source

    own = tuple(Source(instance.name, "container", instance.name) for instance in host.instances)
    return (*own, *(log_files.SOURCES if topology.is_balancing(host, inventory) else ()))


def _chosen(request: Request, words: Sequence[str]) -> tuple[Inventory, Mapping[str, tuple[Source, ...]]]:
    from provision.plan import role_interface

    inventory = role_interface.load(request.inventory, request.overrides, served=False)
    return inventory, selected(inventory, inventory.select(request.limit), words)


def _read(host: Host, session: Transport, chosen: Sequence[Source], wanted: Wanted) -> Sequence[Line]:
    """Return the last lines of a host's logs.

    Raises:
        HostError: the logs cannot be read, or the pattern cannot be used.
    """
    from provision.steps.system import log_lines

    command = log_lines.command(chosen, wanted.most, wanted.since, wanted.grep)
    [answer] = session.batch([command], stop=False)
    _refuse_pattern(answer.exit)
    text = answer.text.split("\n")
    if answer.exit or "end" not in text[-2:]:
        raise FactError("the logs cannot be read", exit_status=answer.exit, stderr=answer.complaint)
    hide = _Hide(host)
    parsed = (log_lines.parse(line, chosen) for line in text)
    return [hide(line) for line in parsed if line is not None and _is_wanted(line, wanted)]


def _refuse_pattern(exit_code: int) -> None:
    """Raise the error of a pattern that grep does not understand."""
    from provision.steps.system import log_lines

    if exit_code == log_lines.BAD_PATTERN:
        raise HostError("grep does not understand the pattern of --grep", "give an extended regular expression")


def _is_wanted(line: Line, wanted: Wanted) -> bool:
    return wanted.since is None or line.at is None or line.at >= wanted.since


class _Hide:
    """Masks the secrets of a host, and keys of clients that somebody put into a path.

    Args:
        host: the host.
    """

    def __init__(self, host: Host) -> None:
        from provision.inventory import Mask
        from provision.inventory.client_file import PREFIX

        self._hide = Mask(host.secrets())
        self._key = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]+")

    def __call__(self, line: Line) -> Line:
        """Return the same line with `[secret]` for every secret."""
        return replace(line, text=self._key.sub("[secret]", self._hide(line.text)))


class _Follower:
    """Follows the logs of one host.

    Args:
        host: the host.
        chosen: the logs.
        wanted: the wanted lines.
        transport: the way to the host.
        put: takes the lines, and None at the end.
    """

    def __init__(
        self,
        host: Host,
        chosen: Sequence[Source],
        wanted: Wanted,
        transport: Transport,
        put: Callable[[HostLine | None], None],
    ) -> None:
        self.host = host
        self._chosen = chosen
        self._wanted = wanted
        self._transport = transport
        self._put = put
        self._ended = threading.Event()
        self._rest = b""
        self._hide = _Hide(host)

    def end(self) -> None:
        """Cut the connection, which ends the program on the host."""
        self._ended.set()
        self._transport.close()

    def run(self) -> None:
        """Follow until the end."""
        lines = self._wanted.most
        try:
            while not self._ended.is_set():
                self._once(lines)
                lines = 0
                self._ended.wait(AGAIN)
        except HostError as error:
            self._tell(error)
        except Exception as error:  # noqa: BLE001 - a bug on one host must not hide the lines of other hosts
            self._tell(BugError(error))
        finally:
            self._put(None)

    def _once(self, lines: int) -> None:
        """Follow until the connection is lost.

        Raises:
            HostError: another attempt would fail too.
        """
        from provision.steps.system import log_lines

        run = log_lines.follower(self._chosen, lines, self._wanted.since if lines else None, self._wanted.grep)
        self._rest = b""
        try:
            _refuse_pattern(self._transport.follow(run, self._take))
            self._tell(UnreachableError("the follower has ended", "another attempt follows"))
        except UnreachableError as error:
            self._transport.close()
            self._tell(error)

    def _tell(self, error: HostError) -> None:
        if not self._ended.is_set():
            words = f"{error.message}; {error.hint}" if error.hint else error.message
            self._put(HostLine(self.host.name, remark=words))

    def _take(self, data: bytes) -> None:
        """Take a piece of the output, and pass on the whole lines."""
        from provision.steps.system import log_lines

        *whole, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[: 4 * log_lines.LONGEST]
        for text in whole:
            line = log_lines.parse(text.decode(errors="replace"), self._chosen)
            if line is not None and _is_wanted(line, self._wanted):
                self._put(HostLine(self.host.name, self._hide(line)))
