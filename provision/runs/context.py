"""State that the hosts of one run share."""

import dataclasses
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence

from provision.artifacts.store import Store
from provision.errors import HostError
from provision.events import Listener
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.plan.planner import HostPlan
from provision.runs.journal import Journal, Kind
from provision.runs.lease import Lease
from provision.runs.lease_keeper import LeaseKeeper
from provision.runs.log import is_over
from provision.runs.setup import Setup
from provision.ssh.transport import Transport


class Stopped(HostError):  # noqa: N818 - a wish of the operator, not an error
    """The operator interrupted the run; the host was left between two steps."""


@dataclasses.dataclass(frozen=True)
class Context:
    """State that the hosts of one run share.

    Args:
        run_id: the id of the run.
        inventory: the whole inventory: upstream and firewall depend on all of it.
        roles: names of the roles to run.
        listen: hears the progress; called from many threads.
        store: the artifacts.
        stop: set when the operator wants to stop; checked between steps.
        cut: set when the operator wants to stop now: the connections are cut, and no connection is opened again.
        failed: names of the hosts that have failed so far.
        working: names of the hosts with work under way or to come.
        begun: names of the hosts with work under way.
        cut_off: names of hosts that were lost while locked: a command may still be running there.
        lock_wait: seconds to wait for a host that another run or an operator has locked.
        kind: the kind of run.
        words: arguments of the command, for the journals: the instances of a drain, the run of a rollback.
        is_over: whether a run is over, as far as this machine's log knows: its locks are not waited for.
        force_fit: whether models are deployed that do not fit their cards by an estimate, or their disk.
        confirmed: host -> the plan that an operator agreed to; empty if nobody was asked.
        journals: host -> journal; several connections may write the journal of a balancer.
        setup: the way to hosts, folders, times, operator, and source of steps.
        keeper: renews the locks of the run; ends with the run.
    """

    run_id: str
    inventory: Inventory
    roles: frozenset[str]
    listen: Listener
    store: Store
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    cut: threading.Event = dataclasses.field(default_factory=threading.Event)
    failed: set[str] = dataclasses.field(default_factory=set)
    working: set[str] = dataclasses.field(default_factory=set)
    begun: set[str] = dataclasses.field(default_factory=set)
    cut_off: set[str] = dataclasses.field(default_factory=set)
    lock_wait: float = 0.0
    kind: Kind = "deploy"
    words: Sequence[str] = ()
    force_fit: bool = False
    is_over: Callable[[str], bool] = is_over
    confirmed: Mapping[str, HostPlan] = dataclasses.field(default_factory=dict)
    journals: dict[str, Journal] = dataclasses.field(default_factory=dict)
    setup: Setup = dataclasses.field(default_factory=Setup)
    keeper: LeaseKeeper = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        timings = self.setup.timings
        object.__setattr__(self, "keeper", LeaseKeeper(timings.renewal, timings.keeper_look))
        self.keeper.cut = self.cut

    @property
    def brings_models(self) -> bool:
        """Whether a test in this run requires the declared models of an instance: the run pulls them, or only undrains.
        A rollback pulls no models, except for an instance that it brings back."""
        return self.kind == "undrain" or (
            bool(self.roles & role_interface.bringing_models()) and self.kind != "rollback"
        )

    @property
    def command(self) -> str:
        """The command, as in journals and logs; `journal.kind_of` reads the kind."""
        return shlex.join((self.kind, *self.words))

    def journal(self, host: str) -> Journal:
        """Return the journal of this run on a host."""
        return self.journals.setdefault(host, Journal(self.run_id, self.command, self.setup.paths, self.setup.who))

    def lease(self, session: Transport, timeout_factor: int = 1) -> Lease:
        """Make this run's lock on the host of a connection, not yet taken.

        Args:
            session: the connection.
            timeout_factor: of the host, see `Connection`.
        """
        return Lease(session, self.run_id, self.keeper, self.is_over, self.setup, timeout_factor)
