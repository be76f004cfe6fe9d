"""testinfra's questions to a host over our own session: one SSH policy, one sudo, one connection."""

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import testinfra.backend.base

from provision.command import Answer, Run
from provision.ssh.transport import Transport
from provision.steps.facts import HostFacts

CHANNELS = 3  # execs on a host at a time; sshd allows ten channels, and may still count channels that have just ended
TOGETHER = 8  # commands in one exec; each waits for the command before
CHECK_TIMEOUT = 330.0  # seconds for a command of a check: a generation that loads a large model first is slow


class Backend(testinfra.backend.base.BaseBackend):  # type: ignore[misc]
    """Runs testinfra's commands over our session.

    Args:
        session: the open connection.
        name: the name of the host.
        known: command -> answer, from the plan of the verification.
        facts: facts about the host, from the same plan.
    """

    NAME = "provision"

    def __init__(
        self, session: Transport, name: str, known: Mapping[Run, Answer] | None = None, facts: HostFacts | None = None
    ) -> None:
        super().__init__(name)
        self.session = session
        self.known = known or {}
        self.facts = facts or HostFacts()
        self._execs = ThreadPoolExecutor(CHANNELS, thread_name_prefix=f"{name}-exec")
        self._waiting: deque[tuple[Run, Future[Answer]]] = deque()
        self._once: dict[str, Future[testinfra.backend.base.CommandResult]] = {}
        self._guard = threading.Lock()

    def run(self, command: str, *args: str, **kwargs: Any) -> testinfra.backend.base.CommandResult:
        """Run a command of testinfra as root; see testinfra's documentation."""
        line = self.get_command(command, *args)
        answered: Future[Answer] = Future()
        with self._guard:
            self._waiting.append((Run(("sh", "-c", line), timeout=CHECK_TIMEOUT), answered))
        self._execs.submit(self._send)
        answer = answered.result()
        return self.result(answer.exit, line.encode(), answer.stdout, answer.stderr)

    def _send(self) -> None:
        """Send all waiting commands in one exec. Each command submits one `_send`; a command may go with an earlier
        exec."""
        with self._guard:
            sent = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
        if not sent:
            return
        try:
            answers = self.session.batch([run for run, _ in sent], stop=False)
        except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
            for _, answered in sent:
                answered.set_exception(error)
        else:
            for (_, answered), answer in zip(sent, answers, strict=True):
                answered.set_result(answer)

    def close(self) -> None:
        """Send nothing more."""
        self._execs.shutdown(wait=False)

    def run_once(self, command: str, *args: str) -> testinfra.backend.base.CommandResult:
        """Run a command that several steps share, once; see `steps.base.asked_once`."""
        line = self.get_command(command, *args)
        with self._guard:
            is_asked = line in self._once
            answer = self._once.setdefault(line, Future())
        if not is_asked:
            try:
                answer.set_result(self.run(command, *args))
            except BaseException as error:  # noqa: BLE001 - raised where the answer is waited for
                answer.set_exception(error)
        return answer.result()
