"""What a run reads of one host, and what the host said: since the run began, and since its last change."""

import contextlib
import time
from collections.abc import Mapping, Sequence

from provision.apply.host_steps import HostSteps
from provision.command import Answer, Run
from provision.errors import FactError
from provision.plan import gpu_loss, planner
from provision.plan.planner import Change
from provision.plan.role_interface import facts_command, facts_needed, late
from provision.ssh.session import Session
from provision.steps.base import BlockedError, Fact, State
from provision.steps.facts import TITLE, Fleet, HostFacts
from provision.steps.nginx import upstream

FRESH = 60.0  # seconds for which a host is taken to be what it was read to be


class HostReader:
    """Reads one host. Plans are made from `answers`; changes only from what was read since the last change.

    Args:
        steps: the host's steps.
        session: its connection; opened by the first read.
    """

    def __init__(self, steps: HostSteps, session: Session) -> None:
        self.steps = steps
        self.session = session
        self.facts = HostFacts()
        """What is known of the host, as it was read last."""
        self.read_at = 0.0
        """When the whole host was read, by this machine's monotonic clock."""
        self._host_facts = facts_command(steps.host, steps.inventory)
        self._answers: dict[Run, Answer] = {}
        self._recent: dict[Run, Answer] = {}  # what was read since the last change

    @property
    def answers(self) -> Mapping[Run, Answer]:
        """What the host said to every read so far, each as it was read last for a plan."""
        return self._answers

    @property
    def latest(self) -> Mapping[Run, Answer]:
        """What the host said to every read so far, also between two changes."""
        return {**self._answers, **self._recent}

    @property
    def is_fresh(self) -> bool:
        """Whether the host is taken to be what it was when the whole of it was read."""
        return time.monotonic() - self.read_at < FRESH

    def read(self) -> None:
        """Read everything that planning looks at, in one exec."""
        if not self._answers:
            self.session.begin()  # while it connects, the steps are put together
        reads = self.needed(self.steps.roles)
        self.take(dict(zip(reads, self.session.batch(reads, stop=False), strict=True)))
        self.read_at = time.monotonic()

    def needed(self, roles: frozenset[str], *, guards: bool = True) -> list[Run]:
        """The commands that read everything that planning for some roles looks at; host facts first.

        Args:
            roles: names of roles.
            guards: whether the guards of the host are asked too.
        """
        finders = ((role, finder) for role, finder in self.steps.finders if role in roles)
        reads = [*planner.facts_of(self.steps.goals_of(roles, guards=guards), finders)]
        reads += self.of_cards(roles - late())
        chosen = roles & self.steps.roles
        facts = facts_needed(self.steps.host, self.steps.inventory, chosen, reads, guards=guards)
        return list(dict.fromkeys([facts, *reads]))

    def needed_for(self, changes: Sequence[Change], roles: frozenset[str], fleet: Fleet | None) -> list[Run]:
        """The commands that are read under the lock for one wave of changes.

        Args:
            changes: as planned.
            roles: names of the wave's roles.
            fleet: what is known of the other hosts: the last wave reads for its own roles alone, the waves before it
                for later ones too.
        """
        reads = self.needed(self.steps.roles) if fleet is None else self.needed(roles, guards=False)
        return [*reads, *(read for read in self.of_cards(frozenset(), changes) if read not in reads)]

    def of_cards(self, roles: frozenset[str], changes: Sequence[Change] = ()) -> list[Run]:
        """The commands that tell whether containers can lose their cards; none where nothing endangers them.

        Args:
            roles: those of which any step may endanger the cards, whatever there is to change.
            changes: of other roles; only changes that do endanger the cards need to know.
        """
        if not self.steps.host.gpu:
            return []
        steps = (entry.step for entry in self.steps.goals_of(roles, guards=False))
        endangered = any(step.endangers_cards for step in steps) or any(map(gpu_loss.endangers, changes))
        return gpu_loss.reads(self.steps.entries) if endangered else []

    def of_containers(self, changes: Sequence[Change]) -> list[Run]:
        """The commands that tell whether instances still see their cards after changes.

        Args:
            changes: what is changed; where that is the balancer's configuration alone, no container is looked into.
        """
        if all(change.role in late() and not gpu_loss.endangers(change) for change in changes):
            return []
        return [entry.step.fact().command for entry in self.steps.containers]

    def take(self, answers: Mapping[Run, Answer]) -> None:
        """Plan with these answers from now on."""
        self._answers.update(answers)
        self.facts = planner.host_facts(answers, self.facts)

    def take_missing(self, reads: Sequence[Run]) -> None:
        """Plan with the answers to these, too: what was never read is read now, in one exec.

        Args:
            reads: commands.
        """
        missing = [read for read in reads if read not in self._answers]
        if missing:
            self.take(dict(zip(missing, self.session.batch(missing, stop=False), strict=True)))

    def ask(self, reads: Sequence[Run]) -> Mapping[Run, Answer]:
        """What was read since the last change; what of these was not is read now, in one exec.

        Args:
            reads: commands.
        """
        missing = [read for read in dict.fromkeys(reads) if read not in self._recent]
        if missing:
            self._recent.update(zip(missing, self.session.batch(missing, stop=False), strict=True))
        return self._recent

    def forget(self) -> None:
        """Trust nothing that was read until now: the host was changed, or it is long ago."""
        self._recent = {}

    def renew(self, answers: Mapping[Run, Answer]) -> None:
        """Trust these answers, and nothing that was read before them.

        Args:
            answers: read after the last change.
        """
        self._recent = dict(answers)

    def state(self, fact: Fact, step: str) -> State:
        """The state that a fact has since the last change.

        Args:
            fact: how to read it.
            step: id of the step.

        Raises:
            BlockedError: known only after another step.
            FactError: unreadable.
        """
        return planner.parse(fact, self.ask([fact.command]), step)

    def recent_facts(self) -> HostFacts:
        """The host facts as they are since the last change. What was read then has all that the roles look at."""
        known = any(read.title == TITLE for read in self._recent)
        self.facts = planner.host_facts(self._recent if known else self.ask([self._host_facts]), self.facts)
        return self.facts

    @property
    def knows_upstream(self) -> bool:
        """Whether the upstream of a balancer was read, also where there is none yet."""
        step = self.steps.balancing
        return step is not None and step.fact().command in self._answers

    def upstream(self) -> str:
        """The upstream of a balancer as it was read last; empty on other hosts, and where there is none."""
        step = self.steps.balancing
        if step is None or not self.knows_upstream:
            return ""
        with contextlib.suppress(BlockedError, FactError):
            return upstream.text_of(planner.parse(step.fact(), self._answers, step.id))
        return ""
