"""`provision rollback`: put back what a run changed."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from provision.cli.deploy import (
    Careful,
    Chosen,
    Planned,
    chosen_words,
    common_options,
    ended,
    exit_of,
    planned,
    run_id,
    seconds_of,
)

if TYPE_CHECKING:
    from provision.errors import HostError
    from provision.inventory import Host, Inventory
    from provision.rollout.outcome import Outcome
    from provision.rollout.waves import Rollout
    from provision.runs.history import Entry, Story
    from provision.runs.rollback_plan import Undo


@dataclass
class Undoing:
    """A rollback that can begin.

    Args:
        run: id of the run that is undone.
        inventory: all hosts.
        undos: host -> what is done there, for the hosts on which the run did something.
        errors: hosts of which that is not known, with the reason.
        confirmed: host -> the plan that an operator has seen and agreed to; empty where nobody was asked.
    """

    run: str
    inventory: "Inventory"
    undos: Mapping[str, "Undo"]
    errors: Mapping[str, "HostError"] = field(default_factory=dict)
    confirmed: Mapping[str, Any] = field(default_factory=dict)


@click.command()
@click.argument("run", metavar="[RUN]", required=False, default="")
@common_options
@click.option("-C", "--check", "--dry-run", is_flag=True, help="Only plan.")
@click.option("-D/ ", "--diff/--no-diff", default=True, show_default=True, help="Show what would change in files.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--lock-wait", default="0", metavar="DURATION", help="Wait so long for a host that somebody else has.")
def rollback(chosen: Chosen, run: str, check: bool, diff: bool, yes: bool, lock_wait: str) -> int:
    """Put back what a run changed: the last one that changed something, unless another is named.

    Containers get their image and settings of before, files their bytes, nginx its build and its configuration.
    """
    from provision.errors import UsageError
    from provision.report import console

    asks = not yes and not check and not chosen.as_json and sys.stdin.isatty() and sys.stdout.isatty()
    if not (yes or check or asks):
        raise UsageError("without a terminal rollback does not ask", "say --yes, or look at it with --check first")
    careful = Careful(lock_wait=seconds_of(lock_wait, "--lock-wait", least=0))
    undoing = _undoing(chosen, run)
    for warning in undoing.inventory.warnings if not chosen.as_json else ():
        console.warn(warning)
    if check or asks:
        shown = _plan(chosen, undoing, diff=diff)
        if check or shown.is_none:
            return shown.code
        click.confirm("Put this back?", abort=True)
        undoing = dataclasses.replace(undoing, confirmed=shown.plans)
    return _put_back(chosen, undoing, careful)


def _undoing(chosen: Chosen, run: str) -> Undoing:
    """What is to be put back where, by the hosts' journals."""
    from provision.cli.history import run_id_of
    from provision.errors import HostError, UsageError
    from provision.plan import role_order
    from provision.runs import journal, rollback_plan

    inventory = role_order.load(chosen.inventory, chosen.extra_vars)
    roles = role_order.choose(chosen.tags, chosen.skip_tags)
    hosts = inventory.select(chosen.limit)
    wanted = run_id_of(run) if run else _newest(chosen, hosts)
    stories = _stories(chosen, hosts, wanted)
    errors = {host.name: one for host, one in stories if isinstance(one, HostError)}
    known = [(host, one) for host, one in stories if one is not None and not isinstance(one, HostError)]
    if not known and not errors:
        raise UsageError(f"none of these hosts knows a run {wanted}", "`provision history` lists them")
    if any(one.entry.kind in journal.DRAINS for _, one in known):
        raise UsageError(f"run {wanted} is a drain or its end", "`provision undrain` and `provision drain` undo it")
    undos = {}
    for host, one in known:
        try:
            undos[host.name] = rollback_plan.undo(host, inventory, one, roles)
        except HostError as error:
            errors[host.name] = error
    return Undoing(wanted, inventory, rollback_plan.with_balancers(undos, inventory, roles), errors)


def _stories(chosen: Chosen, hosts: "Sequence[Host]", run: str) -> "list[tuple[Host, Story | HostError | None]]":
    from provision.runs import history
    from provision.ssh.fanout import each

    def work(_: "Host", session: Any) -> "Story | None":
        return history.story(run, session.batch([history.read(run, with_bytes=True)], stop=False)[0])

    return each(hosts, work, chosen.become_password, chosen.forks)


def _newest(chosen: Chosen, hosts: "Sequence[Host]") -> str:
    """The last run that changed something on any of these hosts; one that was resumed, as of then.

    Raises:
        UsageError: there is none.
        HostError: a host cannot be asked, and may know of a newer one.
    """
    from provision.cli.history import RUN_ID
    from provision.errors import BugError, HostError, UnreachableError, UsageError
    from provision.runs import history, journal
    from provision.ssh.fanout import each

    def work(_: "Host", session: Any) -> "list[Entry]":
        return history.entries(session.batch([history.listed(2 * journal.RUNS)], stop=False)[0])

    found = each(hosts, work, chosen.become_password, chosen.forks)
    lost = {host.name: one for host, one in found if isinstance(one, HostError)}
    runs = {
        (max(re.sub(r"\D", "", time)[:14] for time in (entry.run, entry.resumed)), entry.run)
        for _, one in found
        if not isinstance(one, HostError)
        for entry in one
        if re.fullmatch(RUN_ID, entry.run) and entry.changes and entry.kind not in journal.DRAINS
    }
    if lost:
        first = next((one for one in lost.values() if isinstance(one, BugError)), next(iter(lost.values())))
        if isinstance(first, BugError):
            raise first
        away = all(isinstance(one, UnreachableError) for one in lost.values())
        said = f"which run was the last to change something is not known without {', '.join(lost)}: {first.message}"
        hint = "name the run: `provision history` lists them; or leave those hosts out by --limit"
        raise (UnreachableError if away else HostError)(said, hint, command=first.command, stderr=first.stderr)
    if not runs:
        raise UsageError("no run has changed these hosts, as far as they know")
    return max(runs)[1]


def _rollout(chosen: Chosen, undoing: Undoing, careful: Careful, shown: Any) -> "Rollout":
    from provision.artifacts.store import Store, default_folder
    from provision.plan import role_order
    from provision.rollout.waves import Rollout
    from provision.runs.context import Context

    roles = role_order.choose(chosen.tags, chosen.skip_tags)
    context = Context(
        run_id(),
        undoing.inventory,
        roles,
        shown,
        Store(default_folder()),
        lock_wait=careful.lock_wait,
        kind="rollback",
        words=(undoing.run,),
        confirmed=undoing.confirmed,
    )
    hosts = [(undo.host, roles) for undo in undoing.undos.values()]
    history = {name: undo.entries for name, undo in undoing.undos.items()}
    return Rollout(context, hosts, chosen.become_password, chosen.forks, past=history)


def _plan(chosen: Chosen, undoing: Undoing, *, diff: bool) -> Planned:
    from provision.report import console, history, progress
    from provision.runs.interrupt import at_ctrl_c

    shown = progress.listener(list(undoing.undos), as_json=chosen.as_json, verbose=chosen.verbose)
    rollout = _rollout(chosen, undoing, Careful(), shown)
    with at_ctrl_c(rollout.interrupt, rollout.under_way):
        with shown:
            outcomes = _with_failed(rollout.plan(), undoing)
        rollout.close()
        code = 130 if rollout.interrupted else exit_of(outcomes)
        left = history.left_document(undoing.undos)
        if chosen.as_json:
            document = console.plan_document(outcomes)
            console.document("rollback", code, undoing.inventory.warnings, of=undoing.run, left=left, **document)
        else:
            console.say(f"Putting back what run {undoing.run} did:")
            console.plan_text(outcomes, diff=diff)
            history.left_text(left)
    return planned(code, undoing.inventory, outcomes)


def _put_back(chosen: Chosen, undoing: Undoing, careful: Careful) -> int:
    from provision.actions.resume import Logged
    from provision.report import progress
    from provision.runs.interrupt import at_ctrl_c

    shown = progress.listener(list(undoing.undos), as_json=chosen.as_json, verbose=chosen.verbose)
    rollout = _rollout(chosen, undoing, careful, shown)
    run = rollout.context.run_id
    log = Logged(run, rollout.context.command, chosen, careful)
    try:
        with at_ctrl_c(rollout.interrupt, rollout.under_way):
            log.begin()
            with shown:
                outcomes = _with_failed(rollout.deploy(), undoing)
            code = ended(rollout, outcomes)
            log.end(code, outcomes)
            _tell(chosen, undoing, outcomes, run, code)
    finally:
        rollout.close()
    return code


def _tell(chosen: Chosen, undoing: Undoing, outcomes: "Sequence[Outcome]", run: str, code: int) -> None:
    from provision.report import console, history

    left = history.left_document(undoing.undos)
    if chosen.as_json:
        document = console.deploy_document(outcomes, run)
        console.document("rollback", code, undoing.inventory.warnings, of=undoing.run, left=left, **document)
        return
    history.left_text(left)
    again = _again(chosen, undoing.run, [one.host for one in outcomes if one.error]) if code else ""
    console.recap(outcomes, run, again)
    if any(outcome.changed for outcome in outcomes):
        console.say(f"The inventory still says what run {undoing.run} did: mend it, or the next deploy does it again.")


def _with_failed(outcomes: "Sequence[Outcome]", undoing: Undoing) -> "list[Outcome]":
    """Every host once, also those of which it is not known what is to be put back: a balancer of which nothing is known
    may have been told which instances are back."""
    from provision.rollout.outcome import Outcome

    found = {outcome.host: outcome for outcome in outcomes}
    for name, error in undoing.errors.items():
        one = found.setdefault(name, Outcome(name))
        one.error = one.error or error
    return list(found.values())


def _again(chosen: Chosen, run: str, hosts: Sequence[str]) -> str:
    """The command that puts back the rest."""
    return shlex.join(["provision", "rollback", run, *chosen_words(chosen, hosts)])
