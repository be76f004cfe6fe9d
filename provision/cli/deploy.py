"""`plan`, `deploy` and `verify`."""

import datetime as dt
import secrets
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from provision.cli.options import extra_vars_option, inventory_option, json_option, limit_option
from provision.cli.warnings import clocks, unfinished

F = TypeVar("F", bound=Callable[..., Any])

# Where several apply, the first of these counts (DESIGN 8).
EXIT_BY_RESULT = (("stopped", 130), ("failed", 3), ("locked", 6), ("unreachable", 4))


@dataclass(frozen=True)
class Chosen:
    """What the common options say."""

    inventory: str
    limit: tuple[str, ...]
    extra_vars: tuple[str, ...]
    tags: tuple[str, ...]
    skip_tags: tuple[str, ...]
    forks: int
    become_password: str | None
    verbose: bool
    as_json: bool


@dataclass(frozen=True)
class Careful:
    """What `deploy` is told about going carefully; hosts are counted later."""

    serial: str = ""
    canary: bool = False
    max_fail: str = ""
    lock_wait: float = 0.0


@dataclass(frozen=True)
class Planned:
    """What was planned and shown.

    Args:
        code: the exit code that says it.
        inventory: that it was planned for.
        plans: host -> what was to change there; nothing where that is not known.
        is_none: whether there is nothing to agree to: the operator broke it off, or it is known of no host.
    """

    code: int
    inventory: Any
    plans: Mapping[str, Any]
    is_none: bool


def answered(name: str, as_json: bool, command: Callable[[], int]) -> int:
    """Run a command; with --json an error is a document too.

    Args:
        name: of the command.
        as_json: whether --json was said.
        command: what to run; returns the exit code.
    """
    from provision.errors import ProvisionError

    try:
        return command()
    except ProvisionError as error:
        if not as_json:
            raise
        from provision.report import console

        console.error_document(name, error)
        return error.exit_code


def common_options(command: F) -> F:
    """The options that all three have; they arrive as one `Chosen`."""
    import functools

    @functools.wraps(command)
    def gathered(**kwargs: Any) -> Any:
        asked = kwargs.pop("ask_become_pass")
        kwargs["become_password"] = click.prompt("sudo password", hide_input=True, err=True) if asked else None
        names = Chosen.__dataclass_fields__
        chosen = Chosen(**{name: kwargs.pop(name) for name in names})
        return answered(command.__name__, chosen.as_json, lambda: command(chosen=chosen, **kwargs))

    options = [
        inventory_option,
        limit_option,
        extra_vars_option,
        click.option("-t", "--tags", multiple=True, metavar="ROLE", help="Only these roles."),
        click.option("--skip-tags", multiple=True, metavar="ROLE", help="Not these roles."),
        click.option(
            "-f", "--forks", default=32, show_default=True, type=click.IntRange(1, 500), help="Hosts at once."
        ),
        click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password."),
        click.option("-v", "--verbose", is_flag=True, help="Show every step and the output of long ones."),
        json_option,
    ]
    wrapped: Any = gathered
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


@click.command()
@common_options
@click.option("-D/ ", "--diff/--no-diff", default=True, show_default=True, help="Show what would change in files.")
@click.option("--exit-code", is_flag=True, help="Exit 5 when something would change.")
def plan(chosen: Chosen, diff: bool, exit_code: bool) -> int:
    """Say what a deploy would change on every host, why, and what it would cost. Changes nothing."""
    return _plan(chosen, diff=diff, exit_code=exit_code).code


@click.command()
@common_options
@click.option("-C", "--check", "--dry-run", is_flag=True, help="Only plan.")
@click.option("-D", "--diff", is_flag=True, help="With the plan, show what would change in files.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--serial", default="", metavar="N|P%", help="So many hosts at a time.  [default: --forks]")
@click.option("--canary", is_flag=True, help="One gpu host alone; the others only if all is well there.")
@click.option("--max-fail", default="", metavar="N|P%", help="Stop when more hosts than this fail.  [default: never]")
@click.option("--lock-wait", default="0", metavar="DURATION", help="Wait so long for a host that somebody else has.")
@click.option(
    "--resume", default="", metavar="RUN", help="Go on with a run that was killed: its hosts, roles and pace."
)
def deploy(
    chosen: Chosen,
    check: bool,
    diff: bool,
    yes: bool,
    serial: str,
    canary: bool,
    max_fail: str,
    lock_wait: str,
    resume: str,
) -> int:
    """Make the hosts what the inventory says. What is as it should be is not touched."""
    careful = Careful(serial, canary, max_fail, seconds_of(lock_wait, "--lock-wait", least=0))
    if resume:
        from provision.actions.resume import resumed

        chosen, careful = resumed(chosen, careful, resume)
    if check:
        return _plan(chosen, diff=diff, resume=resume).code
    from provision.actions.resume import Logged
    from provision.errors import UsageError
    from provision.report import console
    from provision.runs.hooks import Hooks
    from provision.runs.interrupt import at_ctrl_c

    confirmed = None
    if not yes and not chosen.as_json and sys.stdin.isatty() and sys.stdout.isatty():
        confirmed = _plan(chosen, diff=diff, resume=resume)
        if confirmed.is_none:
            return confirmed.code
        click.confirm("Deploy this?", abort=True)
    elif not yes:
        raise UsageError("without a terminal deploy does not ask", "say --yes, or look at `provision plan` first")
    inventory, rollout, shown = _rollout(chosen, careful, resume, confirmed)
    run_id = rollout.context.run_id
    hooks, log = Hooks(chosen.inventory, run_id), Logged(run_id, "deploy", chosen, careful)
    hooks.check()
    hooks.before({"inventory": chosen.inventory, "hosts": [member.run.host.name for member in rollout.members]})
    document: dict[str, Any] = {}
    try:
        with at_ctrl_c(rollout.interrupt, rollout.under_way):
            log.begin()
            with shown:
                outcomes = rollout.deploy()
            code, document = ended(rollout, outcomes), console.deploy_document(outcomes, run_id)
            log.end(code, outcomes)
            if chosen.as_json:
                console.document("deploy", code, [*inventory.warnings, *clocks(outcomes)], **document)
            else:
                for warning in clocks(outcomes) if not confirmed else ():
                    console.warn(warning)
                again = _again(chosen, careful, [one.host for one in outcomes if one.error]) if code else ""
                console.recap(outcomes, run_id, again)
    finally:  # what came of it is told before somebody else's program has a say in how long that takes
        rollout.close()
        said = {"inventory": chosen.inventory, "exit": code, **document} if document else {}
        if said and (problem := hooks.after(said, failed=bool(code))):
            console.warn(problem)
    return code


@click.command()
@common_options
@click.option("--junit", metavar="FILE", default="", help="Also write JUnit XML.")
def verify(chosen: Chosen, junit: str) -> int:
    """Read every host as plan does, then have every step prove what it is for, by testinfra. Changes nothing.

    Whatever a deploy would change is a failed check. -v also lists the steps that passed.
    """
    from provision.report import console
    from provision.verify.checks import Verification
    from provision.verify.pytest_plugin import verify as run_verify

    inventory, rollout, _ = _rollout(chosen, silent=True)
    results = run_verify(Verification(rollout), junit=junit, quiet=chosen.as_json, verbose=chosen.verbose)
    found = [result.result for result in results]
    bug = any(result.error and result.error.exit_code == 1 for result in results)
    failed = any(result.error and result.result == "failed" for result in results)
    code = 1 if bug else 3 if failed else 4 if "unreachable" in found else 5 if "failed" in found else 0
    if chosen.as_json:
        console.document("verify", code, inventory.warnings, **console.verify_document(results))
    else:
        console.verify_text(results, _after_verify(chosen, results))
    return code


def _after_verify(chosen: Chosen, results: Sequence[Any]) -> str:
    """The command to run after a verification: to mend what it found, to ask again, or to go on."""
    bad = [result for result in results if result.result != "passed"]
    drifted = [result.host for result in bad if any(step.drifted for step in result.steps)]
    hosts = drifted or [result.host for result in bad]
    words = chosen_words(chosen, hosts if len(hosts) < len(results) else ())
    if not bad:
        return shlex.join(["provision", "loadtest", "-i", chosen.inventory])
    return shlex.join(["provision", "deploy", *words] if drifted else ["provision", "verify", *words, "-v"])


def _plan(chosen: Chosen, *, diff: bool, exit_code: bool = False, resume: str = "") -> Planned:
    """Plan, and show it."""
    from provision.report import console
    from provision.runs.interrupt import at_ctrl_c

    inventory, rollout, shown = _rollout(chosen)
    with at_ctrl_c(rollout.interrupt, rollout.under_way):
        with shown:
            outcomes = rollout.plan()
        rollout.close()
        code = 130 if rollout.interrupted else exit_of(outcomes)
        if not code and exit_code and any(outcome.plan.changes for outcome in outcomes):
            code = 5
        found = [*clocks(outcomes), *([] if resume else unfinished(chosen.inventory))]
        if chosen.as_json:
            console.document("plan", code, [*inventory.warnings, *found], **console.plan_document(outcomes))
        else:
            for warning in found:
                console.warn(warning)
            console.plan_text(outcomes, diff=diff)
    return planned(code, inventory, outcomes)


def planned(code: int, inventory: Any, outcomes: Sequence[Any]) -> Planned:
    """What was planned, by what became of every host."""
    none = code == 130 or all(outcome.error and not outcome.plan.refused for outcome in outcomes)
    return Planned(code, inventory, {outcome.host: outcome.plan for outcome in outcomes}, none)


def seconds_of(text: str, option: str, *, least: float) -> float:
    """A duration of the command line.

    Args:
        text: what was said.
        option: where.
        least: seconds; a day is the most.

    Raises:
        UsageError: it is none, too short or too long.
    """
    from provision.errors import UsageError
    from provision.inventory import duration_seconds, is_duration

    found = duration_seconds(text) if is_duration(text) else -1.0
    if not least <= found <= 86400:
        raise UsageError(f"{option} must be a duration between {least:g}s and 24h, such as 30s or 2m")
    return found


def _rollout(
    chosen: Chosen,
    careful: Careful = Careful(),
    resume: str = "",
    confirmed: Planned | None = None,
    *,
    silent: bool = False,
) -> tuple[Any, Any, Any]:
    """The inventory, the run over its selection, and what shows it; nothing shows one that is silent."""
    from provision.artifacts.store import Store, default_folder
    from provision.plan import role_order
    from provision.report import console, progress
    from provision.rollout.outcome import NO_LIMIT, Pace, selection
    from provision.rollout.waves import Rollout
    from provision.runs.context import Context

    inventory = confirmed.inventory if confirmed else role_order.load(chosen.inventory, chosen.extra_vars)
    roles = role_order.choose(chosen.tags, chosen.skip_tags)
    hosts = selection(inventory, inventory.select(chosen.limit), roles)
    shown = progress.listener([host.name for host, _ in hosts], as_json=chosen.as_json, verbose=chosen.verbose)
    for warning in inventory.warnings if not (chosen.as_json or confirmed) else ():
        console.warn(warning)
    context = Context(
        resume or run_id(),
        inventory,
        roles,
        (lambda event: None) if silent else shown,
        Store(default_folder()),
        lock_wait=careful.lock_wait,
        confirmed=confirmed.plans if confirmed else {},
    )
    pace = Pace(
        serial=_hosts(careful.serial, "--serial", len(hosts), least=1) or NO_LIMIT,
        canary=careful.canary,
        max_fail=_hosts(careful.max_fail, "--max-fail", len(hosts), least=0) if careful.max_fail else NO_LIMIT,
    )
    return inventory, Rollout(context, hosts, chosen.become_password, chosen.forks, pace), shown


def _hosts(text: str, option: str, count: int, *, least: int) -> int:
    """A number of hosts, or a part of them rounded down.

    Args:
        text: `3` or `25%`; 0 is returned for nothing.
        option: where it was said.
        count: the hosts that there are.
        least: what is allowed.
    """
    from provision.errors import UsageError
    from provision.inventory import share_of

    if not text:
        return 0
    try:
        part = share_of(text) if text.endswith("%") else None
        number = int(text) if part is None else max(least, int(count * part))
    except ValueError:
        part, number = None, -1
    if number < least or (part is not None and part > 1):
        raise UsageError(f"{option} must be a number of hosts from {least} on, or a share of them such as 25%")
    return number


def run_id() -> str:
    """A run's id: sorts by time and is different for two runs of the same second."""
    now = dt.datetime.now(dt.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def ended(rollout: Any, outcomes: Sequence[Any]) -> int:
    """The exit code of a run that changed hosts: an operator's stop counts most, then a bug, then a guard's stop."""
    if rollout.interrupted:
        return 130
    return 1 if _has_bug(outcomes) else rollout.guard_exit if rollout.guarded else exit_of(outcomes)


def _has_bug(outcomes: Sequence[Any]) -> bool:
    return any(outcome.error and outcome.error.exit_code == 1 for outcome in outcomes)


def exit_of(outcomes: Sequence[Any]) -> int:
    """The exit code for hosts that came to these outcomes."""
    results = {outcome.result for outcome in outcomes}
    if "stopped" not in results and _has_bug(outcomes):
        return 1
    return next((code for result, code in EXIT_BY_RESULT if result in results), 0)


def _again(chosen: Chosen, careful: Careful, hosts: Sequence[str]) -> str:
    """The command that tries the same again as carefully, on the hosts where it did not end well."""
    words = ["--canary"] if careful.canary else []
    for option, value in (("--serial", careful.serial), ("--max-fail", careful.max_fail)):
        words += [option, value] if value else []
    return shlex.join(["provision", "deploy", *chosen_words(chosen, hosts), *words])


def chosen_words(chosen: Chosen, hosts: Sequence[str] = ()) -> list[str]:
    """What is typed to choose the same again, but for what `-e` set: that may be secret, and is not printed.

    Args:
        chosen: what was chosen.
        hosts: the hosts that it is for now; none for those of then.
    """
    from provision.inventory import unsaid

    limit = ",".join(hosts or chosen.limit)
    words = ["-i", chosen.inventory, *(["-l", limit] if limit else [])]
    settings = [unsaid(word) for word in chosen.extra_vars]
    for option, values in (("-e", settings), ("-t", chosen.tags), ("--skip-tags", chosen.skip_tags)):
        words += [word for value in values for word in (option, value)]
    return [*words, *(["-K"] if chosen.become_password is not None else [])]
