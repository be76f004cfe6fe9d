"""The addresses on which our nginx listens: no foreign process may hold an address, and nginx listens nowhere else."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from provision.command import Command, Script, look
from provision.steps.base import Answer, Check, Fact, RefusalError, State, Step, UnreadableError
from provision.steps.facts import HostFacts
from provision.steps.nginx_paths import ROOT

# One line per listening socket, then the paths of its processes' programs. $@ ports; all sockets without ports.
SCRIPT = Script(
    "nginx/read-sockets",
    """
filter=''
for port do filter="${filter:+$filter or }sport = :$port"; done
found=$(ss -Hltnp "$filter") || exit
printf '%s\\n' "$found"
echo '# programs'
for pid in $(printf '%s\\n' "$found" | grep -o 'pid=[0-9]*' | sort -u); do
  printf '%s %s\\n' "${pid#pid=}" "$(readlink -- "/proc/${pid#pid=}/exe" 2>/dev/null)"
done
""",
)
_PROCESS = re.compile(r'\("([^"]*)",pid=(\d+)')


@dataclass(frozen=True)
class Socket:
    """One listening socket.

    Args:
        address: `ADDRESS:PORT`, IPv6 in brackets.
        holder: name and pid of the process, and path of its program.
        ours: whether the process is our nginx.
    """

    address: str
    holder: str
    ours: bool

    def __str__(self) -> str:
        return f"{self.address} by {self.holder}"


@dataclass(frozen=True, kw_only=True)
class Listen(Step):
    """A guard: these ports are free or ours. Changes nothing.

    Args:
        name: the second half of the id.
        addresses: every `ADDRESS:PORT` on which our nginx is to listen.
    """

    name: str
    addresses: tuple[str, ...]

    @property
    def id(self) -> str:
        """`listen:NAME`."""
        return f"listen:{self.name}"

    @property
    def ports(self) -> tuple[str, ...]:
        """The ports, each once."""
        return tuple(sorted({address.rpartition(":")[2] for address in self.addresses}))

    def fact(self) -> Fact:
        """Reads the listeners of the ports."""
        return Fact(look(SCRIPT, *self.ports, title="list listening sockets"), _state)

    def want(self, facts: HostFacts, have: State) -> State:
        """No foreign listener. Refuses otherwise."""
        held = [text for text in (have or {}).get("foreign", []) if self._clashes(text)]
        if held:
            raise RefusalError(
                f"held by a foreign process: {'; '.join(held)}. Stop it, or choose another port"
                f" (wanted: {', '.join(self.addresses)})"
            )
        return {}

    def _clashes(self, text: str) -> bool:
        """Whether a foreign socket stands in the way of an address of ours."""
        host, _, port = text.split(" ", maxsplit=1)[0].rpartition(":")
        wanted = [address.rpartition(":")[0] for address in self.addresses if address.rpartition(":")[2] == port]
        return any(host == own or _is_any(host) or _is_any(own) for own in wanted)

    def commands(self, have: State, want: State) -> Sequence[Command]:
        """None: a guard changes nothing."""
        return []

    def check(self, live: Any) -> Iterator[Check]:
        """Our nginx listens on exactly these addresses."""
        result = live.run("sh -c %s", "set -u\n" + SCRIPT)
        own = sorted({socket.address for socket in sockets(result.stdout) if socket.ours})
        yield Check("listens on", own, sorted(self.addresses))


def _is_any(host: str) -> bool:
    return host in ("*", "0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound


def _state(answer: Answer) -> State:
    if answer.exit or "# programs" not in answer.text:
        raise UnreadableError(answer.complaint or f"ss exited {answer.exit}")
    return {"foreign": [str(socket) for socket in sockets(answer.text) if not socket.ours]}


def sockets(text: str) -> list[Socket]:
    """The listening sockets, from the script's output."""
    listed, _, listing = text.partition("# programs\n")
    programs = dict(line.partition(" ")[::2] for line in listing.splitlines())
    rows = [line.split(None, 5) for line in listed.splitlines() if line.strip()]
    return [_socket(row[3], row[5] if len(row) > 5 else "", programs) for row in rows if len(row) >= 4]


def _socket(address: str, users: str, programs: dict[str, str]) -> Socket:
    processes = _PROCESS.findall(users)
    if not processes:
        return Socket(address, "an unknown process", ours=False)
    name, pid = processes[0]
    ours = any(programs.get(pid, "").startswith(f"{ROOT}/") for _, pid in processes)
    return Socket(address, f"{name} (pid {pid}, {programs.get(pid) or 'program unknown'})", ours=ours)
