"""A steady streamed load, in a thread of its own: each client asks again as soon as it was answered."""

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

from tests.bench.balancer.client import Answer, Ask, Client

PATIENCE = 120.0  # seconds of silence after which a request counts as failed


class Load:
    """Clients of the balancer; every second one keeps its connection between requests.

    Args:
        address: address of the balancer.
        clients: number of clients, each with one request at a time.
        tokens: length of an answer.
        name: beginning of the prompts; unique.
    """

    def __init__(self, address: str, clients: int, tokens: int, name: str) -> None:
        self.answers: list[Answer] = []
        self.began = 0.0
        """When the load began, by `time.monotonic`; `Answer.at` counts from there."""
        self._base = Ask(name, tokens, address, 3008)
        self._clients = clients
        self._until = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> list[Answer]:
        """Let every client finish its request; return all answers, in the order of their requests."""
        self._until.set()
        self._thread.join()
        self.answers.sort(key=lambda answer: answer.at)
        return self.answers

    def since(self) -> float:
        """Seconds since the load began."""
        return time.monotonic() - self.began

    @property
    def failed(self) -> list[Answer]:
        """The answers that failed."""
        return [answer for answer in self.answers if not answer.good]

    async def _run(self) -> None:
        await asyncio.gather(*(self._client(number) for number in range(self._clients)))

    async def _client(self, number: int) -> None:
        client, count = Client(PATIENCE, keep=number % 2 == 1), 0
        while not self._until.is_set():
            base = self._base
            ask = Ask(f"{base.name} {number}.{count}", base.tokens, base.address, base.port)
            self.answers.append(await client.ask(ask, self.since()))
            count += 1
        client.close()
