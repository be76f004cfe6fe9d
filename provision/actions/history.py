"""The past runs, by the journals of the hosts."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from provision.actions.request import RUN_ID, Request, run_id_of
from provision.actions.results import Answers
from provision.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from provision.inventory import Host, Mask
    from provision.runs.history import Entry, Story
    from provision.runs.lock import Holder
    from provision.runs.log import Log
    from provision.ssh.transport import Transport
    from provision.steps.wording import Vocabulary


@dataclass(frozen=True)
class History(Answers["list[Entry]"]):
    """The runs of every host.

    Args:
        died: the last run on this inventory begun by this machine, if the run died.
    """

    died: Log | None


@dataclass(frozen=True)
class RunStory(Answers["Story | None"]):
    """The changes of one run on every host; None for a host without a journal of the run.

    Args:
        run: id of the run.
        died: this machine's log of the run, if the run died.
        words: kind of a step -> the names of the keys of its states, for an operator.
    """

    run: str
    died: Log | None
    words: Mapping[str, Vocabulary] = field(default_factory=dict)


def history(request: Request, number: int = 20) -> History:
    """Return the runs that changed hosts.

    Args:
        request: selects the hosts.
        number: the number of runs to read from each host.
    """
    from provision.actions.asking import ask, setup_of
    from provision.inventory import Mask
    from provision.runs import history as journals
    from provision.runs.log import Logs, default_folder

    logs, setup = Logs(default_folder()), setup_of(request)

    def work(host: Host, session: Transport) -> list[Entry]:
        listed, status = session.batch([journals.listed(number, setup.paths), setup.host_lock.status()], stop=False)
        holder = setup.host_lock.holder_of(status)
        if holder is not None and holder.who == setup.who and logs.over(holder.run):
            holder = None
        return [_shown(entry, holder, Mask(host.secrets())) for entry in journals.entries(listed)]

    answers = ask(request, work)
    return History(answers.inventory, answers.hosts, answers.exit_code, logs.unfinished(request.inventory))


def _shown(entry: Entry, holder: Holder | None, hide: Mask) -> Entry:
    """Mask the secrets of a run. A run without an end that still holds the lock counts as running, unless the run is
    known to be over."""
    running = entry.result == "unfinished" and holder is not None and holder.run == entry.run and not holder.is_over
    return dataclasses.replace(entry, why=hide(entry.why), result="running" if running else entry.result)


def show(request: Request, run: str = "") -> RunStory:
    """Return the steps of a run on each host: reason, change, result.

    Args:
        request: selects the hosts.
        run: id of the run; empty for the last run that a host knows.

    Raises:
        UsageError: this is no run's id, or all hosts answered and none knows the run.
    """
    from provision.actions.asking import ask, setup_of
    from provision.inventory import Mask
    from provision.plan.vocabulary import vocabularies
    from provision.runs import history as journals
    from provision.runs.log import Logs, default_folder

    run = run_id_of(run) if run else _last(request)

    def work(host: Host, session: Transport) -> Story | None:
        [answer] = session.batch([journals.read(run, setup_of(request).paths)], stop=False)
        return journals.hidden(journals.story(run, answer), Mask(host.secrets()))

    answers = ask(request, work)
    if not answers.exit_code and not any(story for _, story in answers.hosts):
        raise UsageError(f"none of these hosts knows a run {run}", "`provision history` lists the runs")
    log = Logs(default_folder()).find(run)
    died = log if log is not None and log.is_dead else None
    words = vocabularies(answers.inventory)
    return RunStory(answers.inventory, answers.hosts, answers.exit_code, run, died, words)


def _last(request: Request) -> str:
    """Id of the last run that a host knows: the first one that `history` lists.

    Raises:
        UsageError: no host knows any.
        HostError: no host can be asked.
    """
    from provision.actions.asking import ask, setup_of
    from provision.runs import history as journals

    def work(_: Host, session: Transport) -> list[Entry]:
        return journals.entries(session.batch([journals.listed(1, setup_of(request).paths)], stop=False)[0])

    answers = ask(request, work).hosts
    entries = [entry for _, answer in answers if not isinstance(answer, HostError) for entry in answer]
    known = [entry.run for entry in entries if re.fullmatch(RUN_ID, entry.run)]
    if known:
        return max(known)
    for host, answer in answers:
        if isinstance(answer, HostError):
            answer.message = f"{host.name}: {answer.message}"
            raise answer
    raise UsageError("no run has changed these hosts, as far as the journals show")
