"""The deep part of a verification: one job of a host hashes the files whose bytes its steps vouch for.

The job takes no lock and blocks no deploy. The job writes nothing but its record of damaged files, which the next read
of a plan sees (`steps/system/content.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from provision.apply.host_run import HostRun
from provision.plan.planner import GARBLED
from provision.plan.role_interface import Entry
from provision.steps.base import BlockedError, Check, Content, UnreadableError
from provision.steps.system import content as contents_of
from provision.terminal_text import ending

if TYPE_CHECKING:  # checks imports this module
    from provision.verify.checks import StepResult

DAMAGED = "a file has other bytes than it should; the next deploy replaces the file (`provision plan` shows the cost)"


def hash_files(
    run: HostRun, asked: Sequence[tuple[StepResult, Entry | None]], live: Any, stopped: Callable[[], bool]
) -> None:
    """Hash the files of a host's steps, each file once, and add a check for each file to the result of its step.

    Args:
        run: the host.
        asked: the results with their steps; None for a step that the inventory does not declare.
        live: testinfra's host.
        stopped: whether the operator ended the verification.

    Raises:
        HostError: the host cannot be asked.
    """
    wanted = [(result, list(_contents(result, entry, live))) for result, entry in asked]
    files = list({content.path: content for _, contents in wanted for content in contents}.values())
    if not files:
        return
    hashes = contents_of.Hashes(files)

    def told(line: str) -> None:
        hashes.take(line)
        text = contents_of.progress(line)
        if text:
            run.say("progress", "", text)

    run.say("progress", "", contents_of.announced(files))
    record = f"{run.context.setup.paths.state}/{contents_of.RECORD_NAME}"
    answer = run.session.job(contents_of.command(files, record), told, stopped)
    end = "" if answer.exit == 0 else f"the job exited {answer.exit}: {run.hide(ending(answer.text.strip(), 300))}"
    for result, contents in wanted:
        for content in contents:
            _judge(result, content, hashes, end)


def _contents(result: StepResult, entry: Entry | None, live: Any) -> Sequence[Content]:
    """Return the files of a step; none where the plain proof of the step says why nothing is known."""
    if entry is None or result.waits_for:
        return ()
    try:
        return list(entry.step.contents(live))
    except (BlockedError, UnreadableError, *GARBLED):
        return ()


def _judge(result: StepResult, content: Content, hashes: contents_of.Hashes, end: str) -> None:
    found = hashes.found.get(content.path)
    got = found or hashes.problems.get(content.path) or f"not hashed: {end or 'the job did not name the file'}"
    result.checks.append(Check(f"bytes of {content.name}", got, content.sha256))
    if found not in (None, content.sha256):
        result.drifted, result.why = True, result.why or DAMAGED
