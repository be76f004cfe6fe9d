"""What testinfra asks of a host goes over our own session: one SSH policy, one sudo, one connection."""

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import testinfra.backend.base

from provision.command import Answer, Run
from provision.ssh.session import Session
from provision.steps.facts import HostFacts

CHANNELS = 3  # execs of one host at a time; sshd allows ten channels, and may count those that have just ended
TOGETHER = 8  # commands in one exec; they wait for each other
CHECK_TIMEOUT = 330.0  # seconds for one command of a check; a generation that loads a large model first takes a while


class Backend(testinfra.backend.base.BaseBackend):  # type: ignore[misc]
    """testinfra's commands over a session of ours: one SSH policy, one sudo, one connection.

    Args:
        session: the open connection.
        name: the host's name.
        known: what the verification's plan read: command -> answer.
        facts: what it found out of the host.
    """

    NAME = "provision"

    def __init__(
        self, session: Session, name: str, known: Mapping[Run, Answer] | None = None, facts: HostFacts | None = None
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
        """Run one of testinfra's commands as root; see its documentation."""
        line = self.get_command(command, *args)
        said: Future[Answer] = Future()
        with self._guard:
            self._waiting.append((Run(("sh", "-c", line), timeout=CHECK_TIMEOUT), said))
        self._execs.submit(self._send)
        answer = said.result()
        return self.result(answer.exit, line.encode(), answer.stdout, answer.stderr)

    def _send(self) -> None:
        """Run what waits, in one exec. There is one of these for each command: it may have gone with another."""
        with self._guard:
            asked = [self._waiting.popleft() for _ in range(min(TOGETHER, len(self._waiting)))]
        if not asked:
            return
        try:
            answers = self.session.batch([run for run, _ in asked], stop=False)
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
            for _, said in asked:
                said.set_exception(error)
        else:
            for (_, said), answer in zip(asked, answers, strict=True):
                said.set_result(answer)

    def close(self) -> None:
        """Ask nothing any more."""
        self._execs.shutdown(wait=False)

    def run_once(self, command: str, *args: str) -> testinfra.backend.base.CommandResult:
        """What a command of several steps said; it is run for the first of them. See `steps.base.asked_once`."""
        line = self.get_command(command, *args)
        with self._guard:
            asked = line in self._once
            answer = self._once.setdefault(line, Future())
        if not asked:
            try:
                answer.set_result(self.run(command, *args))
            except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
                answer.set_exception(error)
        return answer.result()
