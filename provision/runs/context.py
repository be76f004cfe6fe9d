"""What the hosts of one run share."""

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
from provision.ssh.session import Session


class Stopped(HostError):  # noqa: N818 - a wish of the operator, not an error
    """The operator interrupted the run; the host was left between two steps."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What the hosts of one run share.

    Args:
        run_id: the run's id.
        inventory: all of it: upstream and firewall come from the whole.
        roles: names of the roles that are looked at.
        listen: is told what happens; called from many threads.
        store: where artifacts are kept.
        stop: set when the operator wants to stop; asked between steps.
        cut: set when he wants that at once: the connections are cut, and none is to be made again.
        failed: names of hosts that have failed so far.
        working: names of hosts that are being worked on or still will be.
        begun: names of those of them that are being worked on.
        cut_off: names of hosts that were lost while they were locked: something may still be at work there.
        lock_wait: seconds to wait for a host that somebody else has.
        long_wait: seconds after which a host that waited for its slot is asked whether it is still there.
        kind: what the run does.
        words: what it was told, for the hosts' journals: of a drain the instances, of a rollback the run.
        is_over: whether the run of this id is over, as far as this machine's log knows: its locks are not waited for.
        keeper: renews the locks that the run holds; ends with the run.
        confirmed: host -> the plan that an operator has seen and agreed to; empty where nobody was asked.
        journals: host -> what is written there; a balancer's may be written by several connections.
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
    long_wait: float = 60.0
    kind: Kind = "deploy"
    words: Sequence[str] = ()
    is_over: Callable[[str], bool] = is_over
    keeper: LeaseKeeper = dataclasses.field(default_factory=LeaseKeeper)
    confirmed: Mapping[str, HostPlan] = dataclasses.field(default_factory=dict)
    journals: dict[str, Journal] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keeper.cut = self.cut

    @property
    def brings_models(self) -> bool:
        """Whether instances must have the models that are declared, to be fit in this run: it sees to that, or it does
        nothing else than to give them back. A rollback pulls none but for an instance that comes back."""
        return self.kind == "undrain" or (
            bool(self.roles & role_interface.bringing_models()) and self.kind != "rollback"
        )

    @property
    def command(self) -> str:
        """What was called, as journals and logs name it; `journal.kind_of` reads its kind."""
        return shlex.join((self.kind, *self.words))

    def journal(self, host: str) -> Journal:
        """What this run writes on a host of what it does there."""
        return self.journals.setdefault(host, Journal(self.run_id, self.command))

    def lease(self, session: Session) -> Lease:
        """This run's lock on the host of a connection; not taken yet."""
        return Lease(session, self.run_id, self.keeper, self.is_over)
