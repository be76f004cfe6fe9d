"""Who used what: the requests, tokens and seconds of clients, by the access logs of the balancers. Changes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from provision.actions.results import Answers
from provision.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from provision.actions.request import Request
    from provision.inventory import Host
    from provision.ssh.transport import Transport
    from provision.steps.nginx.access_log import AccessLog, Row

NAMES = ("client", "key", "model")
"""The names by which requests are grouped."""
STATUS = {
    400: "invalid request",
    401: "no valid key",
    403: "no valid key, model not allowed, or closed path",
    404: "unknown model",
    405: "wrong method",
    413: "too large",
    415: "encoded body",
    429: "too many requests, or no tokens left",
    500: "cannot be judged",
    503: "no instance has room, or none answers",
}
"""The reasons of refusals in a log without reasons."""


@dataclass
class Used:
    """The requests of a group.

    Args:
        client: name of the client; empty for nobody, or where the groups have no clients.
        key: id of the key; empty without a key, or where the groups have no keys.
        model: name of the model; empty without a model, or where the groups have no models.
        requests: number of requests that were not refused.
        tokens_in: tokens of the questions.
        tokens_out: tokens of the answers.
        seconds: duration of the requests together.
        estimated: number of requests whose tokens are estimated.
        failed: number of requests that ended in an error of an instance.
        refused: status and reason of a refusal -> number of refused requests.
    """

    client: str
    key: str
    model: str
    requests: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    estimated: int = 0
    failed: int = 0
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        """Add the requests of a row of a balancer.

        Args:
            row: the row.
        """
        if row.kind == "refused":
            self.refused[row.status, row.reason or STATUS.get(row.status, "refused")] += row.requests
            return
        self.requests += row.requests
        self.failed += row.requests if row.kind else 0
        self.tokens_in += row.tokens_in
        self.tokens_out += row.tokens_out
        self.seconds += row.seconds
        self.estimated += row.estimated


@dataclass(frozen=True)
class Usage(Answers["AccessLog"]):
    """The access log of every selected balancer, or the error of the balancer.

    Args:
        since: earlier requests are left out, in seconds since 1970.
        by: the names by which requests are grouped.
    """

    since: int
    by: tuple[str, ...]

    @property
    def logs(self) -> Mapping[str, AccessLog]:
        """Balancer -> its log, of the balancers that answered."""
        return {host.name: answer for host, answer in self.hosts if not isinstance(answer, HostError)}

    @property
    def rows(self) -> Sequence[Used]:
        """The requests of all balancers, the group with the most tokens first."""
        groups: dict[tuple[str, ...], Used] = {}
        for log in self.logs.values():
            for row in log.rows:
                client, key, model = (getattr(row, name) if name in self.by else "" for name in NAMES)
                groups.setdefault((client, key, model), Used(client, key, model)).add(row)
        return sorted(groups.values(), key=_order)

    @property
    def uncounted(self) -> int:
        """The number of requests whose tokens nobody counted."""
        return sum(row.uncounted for log in self.logs.values() for row in log.rows)


def _order(used: Used) -> tuple[Any, ...]:
    sizes = (used.tokens_in + used.tokens_out, used.requests, used.refused.total())
    return (*(-size for size in sizes), used.client, used.key, used.model)


def usage(request: Request, since: int, by: Sequence[str] = ("client", "key", "model")) -> Usage:
    """Add up the requests in the access logs of the selected balancers. A balancer adds up its own log, in one exec.

    Args:
        request: selects the hosts.
        since: earlier requests are left out, in seconds since 1970.
        by: names of `NAMES` by which requests are grouped.

    Raises:
        UsageError: no balancer is selected, or a name is wrong.
        InventoryError: the inventory has problems.
    """
    from provision.actions import asking, exit_code
    from provision.inventory import topology
    from provision.plan import role_interface
    from provision.steps.nginx import access_log

    if not by or set(by) - set(NAMES):
        raise UsageError(f"requests are grouped by {', '.join(NAMES)}", "such as --by key,model")
    inventory = role_interface.load(request.inventory, request.overrides, served=False)
    hosts = [host for host in inventory.select(request.limit) if topology.is_balancing(host, inventory)]
    if not hosts:
        raise UsageError("none of these hosts is a balancer", "leave out --limit, or name a balancer")

    def work(_: Host, session: Transport) -> AccessLog:
        [answer] = session.batch([access_log.command(since)], stop=False)
        return access_log.read(answer)

    answers = asking.on_each(request, hosts, work)
    errors = [answer for _, answer in answers if isinstance(answer, HostError)]
    return Usage(inventory, answers, exit_code.of_errors(errors), since, tuple(dict.fromkeys(by)))
