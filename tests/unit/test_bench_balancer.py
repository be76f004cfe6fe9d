"""The parts of the bench: the drawn load, the client's names for every end of an answer, and the reader of logs."""

import asyncio

import pytest

from tests.bench.balancer import generations, workload
from tests.bench.balancer.client import Answer, Ask, Client
from tests.bench.balancer.generations import Generation

FRAME = b'{"response":"a","done":false}\n'
LAST = b'{"response":"","done":true}\n'
OK = b"HTTP/1.1 200 OK\r\nX-Instance: gpu-01/ollama1\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LOG = """\
time=2026-11-22T05:00:00.000Z level=INFO source=simulated msg="server config" env=x
time=2026-11-22T05:00:01.000Z level=INFO source=simulated msg="simulated: generation begins" prompt=aa
time=2026-11-22T05:00:02.000Z level=INFO source=simulated msg="simulated: generation begins" prompt=bb
time=2026-11-22T05:00:03.500Z level=INFO source=simulated msg="simulated: generation ends" prompt=aa
"""


def test_the_same_seed_gives_the_same_load_of_the_requested_size() -> None:
    drawn = workload.requests(1, 0.8, 50, 8)
    assert drawn == workload.requests(1, 0.8, 50, 8)
    assert drawn != workload.requests(2, 0.8, 50, 8)
    load = workload.busy([one.tokens for one in drawn]) / (50 * 8)
    assert 0.8 <= load < 0.8 + workload.LONGEST / workload.TOKENS_PER_SECOND / (50 * 8) + 0.001
    assert [one.at for one in drawn] == sorted(one.at for one in drawn)


def chunks(*pieces: bytes) -> bytes:
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)


@pytest.mark.parametrize(
    ("said", "failure", "gaps"),
    [
        (OK + FRAME + FRAME + LAST, "", 2),
        (CHUNKED + chunks(FRAME, FRAME[:5], FRAME[5:] + LAST, b""), "", 2),
        (OK + FRAME, "cut", 0),
        (CHUNKED + chunks(FRAME) + b"1c\r\n{", "cut", 0),
        (OK, "closed", 0),
        (b"", "closed", 0),
        (b"HTTP/1.1 200 O", "closed", 0),
        (OK + FRAME + b'{"error":"x"}\n', "error in stream", 0),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "503", 0),
        (None, "silent", 0),
    ],
)
def test_every_end_of_an_answer_has_a_name(said: bytes | None, failure: str, gaps: int) -> None:
    answer = asyncio.run(_answered(said))
    assert (answer.failure, len(answer.gaps)) == (failure, gaps)
    assert answer.good is not bool(failure)


async def _answered(said: bytes | None) -> Answer:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if said is None:
            await asyncio.sleep(0.3)
        writer.write(said or b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await Client(0.1 if said is None else 60).ask(Ask("x", 1, "127.0.0.1", port))


def test_a_closed_port_is_called_refused() -> None:
    assert asyncio.run(Client(5).ask(Ask("x", 1, "127.0.0.1", 1))).failure == "refused"


def test_a_killed_answer_ends_with_its_server() -> None:
    ends = {one.prompt: one.ended - one.begun for one in generations.parse("i", LOG, 1795323610.0)}
    assert ends == {"aa": 2.5, "bb": 8.0}
    again = LOG.splitlines()[0].replace("05:00:00", "05:00:06")
    ends = {one.prompt: one.ended - one.begun for one in generations.parse("i", LOG + again, float("inf"))}
    assert ends == {"aa": 2.5, "bb": 4.0}


@pytest.mark.parametrize(
    ("spans", "twice"),
    [([(0, 2), (2, 3)], False), ([(0, 2), (1, 3)], True), ([(4, 5), (0, 9), (1, 3)], True), ([(0, 1), (2, 3)], False)],
)
def test_two_answers_to_a_prompt_at_once_are_found(spans: list[tuple[float, float]], twice: bool) -> None:
    made = [Generation("p", f"i{number}", *span) for number, span in enumerate(spans)]
    assert bool(generations.twice(made)) is twice
    assert not generations.twice([Generation(f"p{number}", "i", *span) for number, span in enumerate(spans)])
