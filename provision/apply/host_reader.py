"""The reads of one host in a run: all answers since the run began, and the answers since the last change."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from provision.apply.host_steps import HostSteps
from provision.command import Answer, Run
from provision.errors import FactError
from provision.plan import gpu_loss, planner
from provision.plan.planner import Change
from provision.plan.role_interface import facts_command, facts_needed, late
from provision.ssh.transport import Transport
from provision.steps import loading
from provision.steps.base import BlockedError, Fact, State
from provision.steps.facts import TITLE, HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.loading import Loading
from provision.steps.nginx import upstream

FRESH = 60.0  # seconds for which a read counts as the present state of the host


class HostReader:
    """Reads one host. A plan uses `answers`; a change uses only reads since the last change.

    Args:
        steps: the steps of the host.
        session: the connection, opened by the first read.
    """

    def __init__(self, steps: HostSteps, session: Transport) -> None:
        self.steps = steps
        self.session = session
        self.facts = HostFacts()
        """Facts about the host, by the latest read."""
        self.read_at = 0.0
        """Time of the last complete read, by this machine's monotonic clock."""
        self._host_facts = facts_command(steps.host, steps.inventory)
        self._answers: dict[Run, Answer] = {}
        self._recent: dict[Run, Answer] = {}  # reads since the last change

    @property
    def answers(self) -> Mapping[Run, Answer]:
        """The latest answer to every read for a plan."""
        return self._answers

    @property
    def latest(self) -> Mapping[Run, Answer]:
        """The latest answer to every read, also between two changes."""
        return {**self._answers, **self._recent}

    @property
    def is_fresh(self) -> bool:
        """Whether the last complete read still counts as the present state of the host."""
        return time.monotonic() - self.read_at < FRESH

    def read(self) -> None:
        """Read everything for a plan, in one exec."""
        if not self._answers:
            self.session.begin()  # build the steps while the session connects
        reads = self.needed(self.steps.roles)
        self.take(dict(zip(reads, self.session.batch(reads, stop=False), strict=True)))
        self.read_at = time.monotonic()

    def needed(self, roles: frozenset[str], *, guards: bool = True) -> list[Run]:
        """Return the commands that read everything for a plan of some roles; host facts first.

        Args:
            roles: names of roles.
            guards: whether the guards of the host are read too.
        """
        finders = ((role, finder) for role, finder in self.steps.finders if role in roles)
        reads = [*planner.facts_of(self.steps.goals_of(roles, guards=guards), finders)]
        reads += self.of_cards(roles - late())
        reads += self.of_models(roles)
        chosen = roles & self.steps.roles
        facts = facts_needed(self.steps.host, self.steps.inventory, chosen, reads, guards=guards)
        return list(dict.fromkeys([facts, *reads]))

    def needed_for(self, changes: Sequence[Change], roles: frozenset[str], fleet: FleetState | None) -> list[Run]:
        """Return the commands to read under the lock for one wave of changes.

        Args:
            changes: as planned.
            roles: names of the wave's roles.
            fleet: the state of the fleet in the last wave, which reads for its own roles alone; None in an earlier
                wave, which reads for later roles too.
        """
        reads = self.needed(self.steps.roles) if fleet is None else self.needed(roles, guards=False)
        return [*reads, *(read for read in self.of_cards(frozenset(), changes) if read not in reads)]

    def of_cards(self, roles: frozenset[str], changes: Sequence[Change] = ()) -> list[Run]:
        """Return the commands that tell whether containers can lose their cards; none if nothing endangers the cards.

        Args:
            roles: roles whose steps may endanger the cards, with or without planned changes.
            changes: of further roles; only a change that endangers cards counts.
        """
        if not self.steps.host.gpu:
            return []
        steps = (entry.step for entry in self.steps.goals_of(roles, guards=False))
        endangered = any(step.endangers_cards for step in steps) or any(map(gpu_loss.endangers, changes))
        return gpu_loss.reads(self.steps.entries) if endangered else []

    def of_models(self, roles: frozenset[str]) -> list[Run]:
        """Return the commands for the dimensions of the models of instances that take a proposal of the estimate.

        The answer of a registry counts for the whole run: no later read of the run asks the registry again.

        Args:
            roles: names of roles; only instances whose container is a step of these roles count.
        """
        if not self.steps.proposing:
            return []
        steps = (entry.step for entry in self.steps.goals_of(roles, guards=False))
        served = {step.part_of for step in steps if step.serves}
        return [each.read for each in self.steps.proposing if each.instance in served and not self._is_told(each)]

    def _is_told(self, each: Loading) -> bool:
        """Whether a registry has told the dimensions of a model in this run."""
        models = self.facts.models.get(each.instance, ())
        return any(known.model == each.model and known.source == "gguf" for known in models)

    def of_containers(self, changes: Sequence[Change]) -> list[Run]:
        """Return the commands that tell whether instances still see their cards after changes.

        Args:
            changes: the changes. After changes of a balancer's configuration alone, no container is read.
        """
        if all(change.role in late() and not gpu_loss.endangers(change) for change in changes):
            return []
        return [entry.step.fact().command for entry in self.steps.containers]

    def take(self, answers: Mapping[Run, Answer]) -> None:
        """Use these answers for plans from now on."""
        self._answers.update(answers)
        self.facts = planner.host_facts(answers, self.facts)
        if self.steps.proposing:
            self.facts = replace(self.facts, models=loading.known(self.steps.proposing, self._answers))

    def take_missing(self, reads: Sequence[Run]) -> None:
        """Use the answers to these commands for plans too; run the missing commands now, in one exec.

        Args:
            reads: the commands.
        """
        missing = [read for read in reads if read not in self._answers]
        if missing:
            self.take(dict(zip(missing, self.session.batch(missing, stop=False), strict=True)))

    def ask(self, reads: Sequence[Run]) -> Mapping[Run, Answer]:
        """Return all reads since the last change; run the missing commands now, in one exec.

        Args:
            reads: the commands.
        """
        missing = [read for read in dict.fromkeys(reads) if read not in self._recent]
        if missing:
            self._recent.update(zip(missing, self.session.batch(missing, stop=False), strict=True))
        return self._recent

    def forget(self) -> None:
        """Forget all reads since the last change: the host was changed, or the reads are old."""
        self._recent = {}

    def renew(self, answers: Mapping[Run, Answer]) -> None:
        """Replace all reads since the last change.

        Args:
            answers: read after the last change.
        """
        self._recent = dict(answers)

    def state(self, fact: Fact, step: str) -> State:
        """Return the state of a fact since the last change.

        Args:
            fact: the fact.
            step: id of the step.

        Raises:
            BlockedError: known only after another step.
            FactError: the answer is unreadable.
        """
        return planner.parse(fact, self.ask([fact.command]), step)

    def recent_facts(self) -> HostFacts:
        """Return the host facts since the last change, with every part that the roles read."""
        known = any(read.title == TITLE for read in self._recent)
        self.facts = planner.host_facts(self._recent if known else self.ask([self._host_facts]), self.facts)
        return self.facts

    @property
    def knows_upstream(self) -> bool:
        """Whether the upstream of a balancer was read, even if absent."""
        step = self.steps.balancing
        return step is not None and step.fact().command in self._answers

    def upstream(self) -> str:
        """Return the upstream of a balancer by the latest read; empty if absent, and on gpu hosts."""
        step = self.steps.balancing
        if step is None or not self.knows_upstream:
            return ""
        with contextlib.suppress(BlockedError, FactError):
            return upstream.text_of(planner.parse(step.fact(), self._answers, step.id))
        return ""
