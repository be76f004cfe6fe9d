"""A light client of /api/generate: one process, one thread, and a name for every way in which an answer can end.

As a program it does a job from a file and writes the answers, so that the client can run in another host's network:

    ip netns exec NAME python -m tests.bench.balancer.client job.json > answers.json
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MODEL = "deepseek-r1:1.5b"
_HEAD = (
    "POST /api/generate HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    "Content-Length: {length}\r\nConnection: {connection}\r\n\r\n"
)


@dataclass(frozen=True)
class Ask:
    """One request.

    Args:
        name: the prompt; unique, because a generation is found by its prompt in the instances' logs.
        tokens: length of the answer.
        address: address of the server.
        port: port of the server.
        at: seconds after the start of the job at which the request is sent.
    """

    name: str
    tokens: int
    address: str
    port: int
    at: float = 0.0


@dataclass
class Answer:
    """The outcome of a request.

    Args:
        name: the prompt.
        at: when the request was sent, in seconds after the start of the job.
        failure: empty, or the way of failing: refused, closed, silent, cut, an HTTP status, error in stream.
        instance: the answering instance, as the balancer names it.
        first: seconds until the first frame; None without a frame.
        total: seconds until the end.
        gaps: seconds between frames, as the client saw them.
    """

    name: str
    at: float
    failure: str = ""
    instance: str = ""
    first: float | None = None
    total: float = 0.0
    gaps: list[float] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether the last frame came."""
        return not self.failure


class FailedError(Exception):
    """A failed request, with the way of failing."""


class Client:
    """One client, which keeps its connection between requests where `keep` is set, and never repeats a request.

    Args:
        patience: seconds of silence after which the client gives up.
        keep: whether the client keeps its connection.
    """

    def __init__(self, patience: float = 60.0, *, keep: bool = False) -> None:
        self._patience = patience
        self._keep = keep
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, one: Ask, at: float = 0.0) -> Answer:
        """Send a request and read its answer to the end, whatever the end is."""
        answer, begun = Answer(one.name, at), time.monotonic()
        try:
            async with asyncio.timeout(self._patience) as silence:
                await self._ask(one, answer, begun, silence)
        except FailedError as failed:
            answer.failure = str(failed)
        except TimeoutError:
            answer.failure = "silent"
        except ConnectionRefusedError:
            answer.failure = "refused"
        except (OSError, EOFError, ValueError):
            answer.failure = "closed" if answer.first is None else "cut"
        answer.total = time.monotonic() - begun
        if answer.failure or not self._keep:
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection."""
        if self._open:
            self._open[1].close()
        self._open = None

    async def _ask(self, one: Ask, answer: Answer, begun: float, silence: asyncio.Timeout) -> None:
        reader, writer = await self._connection(one)
        prompt = {"model": MODEL, "prompt": one.name, "think": False, "options": {"num_predict": one.tokens}}
        body = json.dumps(prompt).encode()
        connection = "keep-alive" if self._keep else "close"
        writer.write(_HEAD.format(host=one.address, length=len(body), connection=connection).encode() + body)
        status, headers = await _head(reader)
        answer.instance = headers.get("x-instance", "")
        if status != 200:
            raise FailedError(str(status))
        before, last = begun, False
        async for now, frame in _frames(reader, headers):
            silence.reschedule(now + self._patience)
            last = _is_last(frame)
            if answer.first is None:
                answer.first = now - begun
            else:
                answer.gaps.append(now - before)
            before = now
        if not last:
            raise FailedError("closed" if answer.first is None else "cut")
        if headers.get("connection") == "close":
            self.close()

    async def _connection(self, one: Ask) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The open connection, unless it is seen to be closed, as with any client; else a new connection."""
        if self._open and self._open[0].at_eof():
            self.close()
        if not self._open:
            self._open = await asyncio.open_connection(one.address, one.port)
        return self._open


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status, *lines = head.rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return int(status.split()[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _frames(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[tuple[float, bytes]]:
    """Each line of the body with the time of its reading."""
    rest = b""
    while piece := await _piece(reader, headers):
        now = time.monotonic()
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield now, line


async def _piece(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """The next bytes of the body; empty at its end."""
    if headers.get("transfer-encoding") != "chunked":
        return await reader.read(65536)
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


def _is_last(line: bytes) -> bool:
    frame = json.loads(line)
    if "error" in frame:
        raise FailedError("error in stream")
    return bool(frame.get("done"))


async def play(asks: Iterable[Ask], patience: float = 60.0) -> list[Answer]:
    """Send every request at its time, whether or not earlier requests have been answered."""
    start = time.monotonic()

    async def one(ask: Ask) -> Answer:
        await asyncio.sleep(max(0.0, start + ask.at - time.monotonic()))
        return await Client(patience).ask(ask, ask.at)

    return list(await asyncio.gather(*(one(ask) for ask in asks)))


async def in_turn(asks: Iterable[Ask], patience: float = 60.0) -> list[Answer]:
    """Send one request after the other."""
    return [await Client(patience).ask(ask) for ask in asks]


async def keep_asking(base: Ask, clients: int, until: asyncio.Event, patience: float = 60.0) -> list[Answer]:
    """Clients that keep their connections and ask again after a short pause, until `until` is set.

    Args:
        base: the request and its address; names are made unique.
        clients: number of clients.
        until: when set, each client finishes its request and ends.
        patience: seconds of silence after which a request fails.
    """
    start = time.monotonic()

    async def one(number: int) -> list[Answer]:
        pause, client = random.Random(number), Client(patience, keep=True)  # noqa: S311
        answers: list[Answer] = []
        while not until.is_set():
            name = f"{base.name} {number}.{len(answers)}"
            ask = Ask(name, base.tokens, base.address, base.port)
            answers.append(await client.ask(ask, time.monotonic() - start))
            await asyncio.sleep(pause.uniform(0, 0.05))
        client.close()
        return answers

    return [answer for some in await asyncio.gather(*map(one, range(clients))) for answer in some]


async def _do(job: dict[str, Any]) -> list[Answer]:
    asks, patience = [Ask(**ask) for ask in job["asks"]], job["patience"]
    if job["how"] == "play":
        return await play(asks, patience)
    if job["how"] == "in turn":
        return await in_turn(asks, patience)
    until = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, until.set)
    return await keep_asking(asks[0], job["clients"], until, patience)


def main() -> None:
    """Do the job in a file, and write its answers as JSON. `keep asking` ends with standard input."""
    job = json.loads(Path(sys.argv[1]).read_text())
    json.dump([asdict(answer) for answer in asyncio.run(_do(job))], sys.stdout)


if __name__ == "__main__":
    main()
