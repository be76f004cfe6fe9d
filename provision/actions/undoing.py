"""The steps that a rollback restores, by the journals of the hosts, and the run that restores them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from provision.actions import exit_code
from provision.actions.asking import on_each, setup_of
from provision.actions.pace import DEFAULT_PACE, Pace
from provision.actions.request import RUN_ID, Request, run_id_of
from provision.actions.results import RollbackPlan
from provision.actions.run_session import RunSession, hosts_of, warn_of
from provision.errors import BugError, HostError, UnreachableError, UsageError
from provision.events import Listener
from provision.inventory import Host, Inventory
from provision.plan import role_choice, role_interface
from provision.plan.planner import HostPlan
from provision.rollout.outcome import Outcome
from provision.rollout.waves import Rollout
from provision.runs import history, journal, rollback_plan
from provision.runs.history import Entry, Story
from provision.runs.rollback_plan import Undo
from provision.ssh.transport import Transport


@dataclass(frozen=True)
class Undoing:
    """A rollback before its begin.

    Args:
        run: id of the run to undo.
        inventory: all hosts.
        undos: host -> the steps to restore, for the hosts that the run changed.
        errors: host -> why the steps to restore are unknown.
        confirmed: host -> the plan that an operator agreed to; empty if nobody was asked.
    """

    run: str
    inventory: Inventory
    undos: Mapping[str, Undo]
    errors: Mapping[str, HostError] = field(default_factory=dict)
    confirmed: Mapping[str, HostPlan] = field(default_factory=dict)

    def with_failed(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return the outcome of every host once, including hosts whose steps to restore are unknown: such a balancer
        may have been told about admitted instances."""
        by_host = {outcome.host: outcome for outcome in outcomes}
        for name, error in self.errors.items():
            outcome = by_host.setdefault(name, Outcome(name))
            outcome.error = outcome.error or error
        return list(by_host.values())


def undoing_of(request: Request, run: str, listen: Listener) -> Undoing:
    """Read the steps to restore from the journals of the hosts.

    Args:
        request: selects hosts and roles.
        run: id of the run to undo; empty for the last run with changes.
        listen: hears the warnings of the inventory.

    Raises:
        UsageError: there is no such run, or the run cannot be undone.
        HostError: a host cannot be asked, so the last run is unknown.
    """
    inventory = role_interface.load(request.inventory, request.overrides)
    roles = role_choice.choose(request.tags, request.skip_tags)
    hosts = inventory.select(request.limit)
    wanted = run_id_of(run) if run else _newest(request, hosts)
    stories = _stories(request, hosts, wanted)
    errors = {host.name: story for host, story in stories if isinstance(story, HostError)}
    known = [(host, story) for host, story in stories if story is not None and not isinstance(story, HostError)]
    if not known and not errors:
        raise UsageError(f"none of these hosts knows a run {wanted}", "`provision history` lists the runs")
    if any(_is_drain(story.entry) for _, story in known):
        hint = "`provision undrain` undoes a drain, and `provision drain` undoes an undrain"
        raise UsageError(f"run {wanted} is a drain or an undrain", hint)
    undos = {}
    for host, story in known:
        try:
            undos[host.name] = rollback_plan.undo(host, inventory, story, roles)
        except HostError as error:
            errors[host.name] = error
    warn_of(inventory, listen)
    return Undoing(wanted, inventory, rollback_plan.with_balancers(undos, inventory, roles), errors)


def planned(request: Request, undoing: Undoing, listen: Listener) -> RollbackPlan:
    """Plan a rollback.

    Args:
        request: selects hosts and roles.
        undoing: the steps to restore.
        listen: hears the progress.
    """
    session, rollout = session_over_undoing(request, DEFAULT_PACE, undoing, listen)
    outcomes = session.look(rollout, lambda: undoing.with_failed(rollout.plan()), hosts_of(rollout))
    code = exit_code.of_plan(rollout, outcomes)
    return RollbackPlan(undoing.inventory, outcomes, code, of=undoing.run, undos=undoing.undos)


def session_over_undoing(
    request: Request, pace: Pace, undoing: Undoing, listen: Listener
) -> tuple[RunSession, Rollout]:
    """Prepare the run of a rollback.

    Args:
        request: selects hosts and roles.
        pace: the wait for locks.
        undoing: the steps to restore.
        listen: hears the progress.
    """
    roles = role_choice.choose(request.tags, request.skip_tags)
    session = RunSession(
        request, pace, "rollback", undoing.inventory, roles, listen, words=(undoing.run,), confirmed=undoing.confirmed
    )
    hosts = [(undo.host, roles) for undo in undoing.undos.values()]
    past = {name: undo.entries for name, undo in undoing.undos.items()}
    return session, Rollout(session.context, hosts, request.become_password, request.forks, past=past)


def _stories(request: Request, hosts: Sequence[Host], run: str) -> list[tuple[Host, Story | HostError | None]]:
    paths = setup_of(request).paths

    def work(_: Host, session: Transport) -> Story | None:
        return history.story(run, session.batch([history.read(run, paths, with_bytes=True)], stop=False)[0])

    return on_each(request, hosts, work)


def _newest(request: Request, hosts: Sequence[Host]) -> str:
    """Return the last run that changed any of these hosts. A resumed run counts from its last resume.

    Raises:
        UsageError: no run changed these hosts.
        HostError: a host cannot be asked, and may know a newer run.
    """

    paths = setup_of(request).paths

    def work(_: Host, session: Transport) -> list[Entry]:
        return history.entries(session.batch([history.listed(2 * journal.RUNS, paths)], stop=False)[0])

    answers = on_each(request, hosts, work)
    lost = {host.name: answer for host, answer in answers if isinstance(answer, HostError)}
    if lost:
        raise _not_known_without(lost)
    entries = [entry for _, answer in answers if not isinstance(answer, HostError) for entry in answer]
    runs = [(_begun(entry), entry.run) for entry in entries if _can_be_undone(entry)]
    if not runs:
        raise UsageError("no run has changed these hosts, as far as the journals show")
    return max(runs)[1]


def _begun(entry: Entry) -> str:
    """Return the begin or the last resume of a run, as digits that sort by time."""
    return max(re.sub(r"\D", "", time)[:14] for time in (entry.run, entry.resumed))


def _can_be_undone(entry: Entry) -> bool:
    return bool(re.fullmatch(RUN_ID, entry.run)) and bool(entry.changes) and not _is_drain(entry)


def _is_drain(entry: Entry) -> bool:
    return entry.kind in journal.DRAINS


def _not_known_without(lost: Mapping[str, HostError]) -> HostError:
    """Make the error for hosts that cannot be asked and may know a newer run. A bug comes first."""
    errors = list(lost.values())
    bug = next((error for error in errors if isinstance(error, BugError)), None)
    if bug is not None:
        return bug
    away = all(isinstance(error, UnreachableError) for error in errors)
    message = f"which run was the last to change something is not known without {', '.join(lost)}: {errors[0].message}"
    hint = "name the run: `provision history` lists the runs; or leave those hosts out by --limit"
    kind = UnreachableError if away else HostError
    return kind(message, hint, command=errors[0].command, stderr=errors[0].stderr)
