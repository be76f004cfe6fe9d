"""The parts of the bench of the gateway: names of failures, percentiles, standings, goals, and the whole report."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.bench.gateway import instance, nginx, report, table
from tests.bench.gateway.bodies import SIZES, WAYS, body
from tests.bench.gateway.client import Answer, Ask, Place, answered
from tests.bench.gateway.first_tokens import Served
from tests.bench.gateway.flood import Shared
from tests.bench.gateway.measured import Figures
from tests.bench.gateway.places import DIRECT, LITELLM, MODELS, OURS, PLAIN, UNCOUNTED
from tests.bench.gateway.sizes import SMALL
from tests.bench.gateway.streams import Held
from tests.bench.gateway.table import AHEAD, BEHIND, EVEN, Row
from tests.bench.gateway.trouble import Left, Losses

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"
TOKEN = b'data: {"choices":[]}\n\n'
LAST = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("pieces", "failure", "tokens"),
    [
        ([HEAD + TOKEN, TOKEN + LAST], "", 2),
        ([HEAD, TOKEN, b"data: [DO", b"NE]\n\n"], "", 1),
        ([HEAD, TOKEN], "cut", 1),
        ([HEAD], "closed", 0),
        ([], "closed", 0),
        ([b"HTTP/1.1 429 Too Many\r\n\r\n"], "429", 0),
        ([b"nonsense"], "-1", 0),
        ([HEAD + TOKEN, b'data: {"error":{}}\n\n', LAST], "error in stream", 2),
        ([HEAD, b'{"model":"m","done":true}\n'], "", 1),
    ],
)
def test_every_end_of_an_answer_has_a_name(pieces: list[bytes], failure: str, tokens: int) -> None:
    answer = Answer(10.0)
    for number, piece in enumerate(pieces):
        answer.take(piece, 11.0 + number)
    answer.end()
    assert (answer.failure, answer.tokens, answer.good) == (failure, tokens, not failure)


def test_an_answer_knows_its_first_token_and_its_longest_pause() -> None:
    answer = Answer(10.0)
    for piece, now in ((HEAD, 11.0), (TOKEN, 12.0), (TOKEN, 12.5), (TOKEN, 16.0), (LAST, 16.1)):
        answer.take(piece, now)
    assert (answer.ttft, answer.gap) == (2.0, 3.5)


def test_the_simulated_instance_sends_the_tokens_that_a_request_names() -> None:
    async def both() -> tuple[Answer, Answer]:
        state = instance.State(slots=1)
        server = await asyncio.get_running_loop().create_server(lambda: instance.Connection(state), "127.0.0.1", 0)
        place = Place("127.0.0.1", server.sockets[0].getsockname()[1])
        async with server:
            asks = (Ask(place, MODELS[0], "key", tokens=6, pace=1), Ask(place, MODELS[0], "key", tokens=3))
            first, second = await asyncio.gather(*map(answered, asks))
        assert (state.busy, len(state.waiting)) == (0, 0)
        return first, second

    first, second = asyncio.run(both())
    # The frames that say the reason of the end and the usage count too.
    assert (first.good, first.tokens, second.good, second.tokens) == (True, 8, True, 5)


def test_a_waiting_client_that_leaves_keeps_no_slot() -> None:
    state = instance.State(slots=1, busy=1)
    waiting = instance.Connection(state)
    state.waiting.append(waiting)
    waiting._answering = True
    waiting.connection_lost(None)
    state.leave()
    assert (state.busy, len(state.waiting)) == (0, 0)


@pytest.mark.parametrize(
    ("ours", "others", "more", "standing"),
    [
        (1, 2, False, AHEAD),
        (2, 1, False, BEHIND),
        (2, 1, True, AHEAD),
        (1, 2, True, BEHIND),
        (0, 0, False, EVEN),
        (float("nan"), 1, False, BEHIND),
        (1, float("nan"), True, AHEAD),
    ],
)
def test_a_row_has_a_standing(ours: float, others: float, more: bool, standing: str) -> None:
    assert Row("x", {OURS: ours, LITELLM: others}, more=more).standing == standing
    assert Row("x", {OURS: ours}, more=more).standing == ""


def test_a_goal_is_lost_by_a_single_row_behind() -> None:
    rows = [Row("a", {OURS: 1, LITELLM: 2}), Row("b", {OURS: 2, LITELLM: 1}), Row("c", {OURS: 0, LITELLM: 0})]
    goal = table.ahead(rows)
    assert (goal.measured, goal.met) == ("ahead in 1 rows, even in 1, behind in 1: b", False)
    assert table.ahead(rows[::2]).met
    assert table.ahead([Row("a", {OURS: 1})]).met is None
    assert table.at_most("x", 20.0, 20.0, "%").met
    assert table.at_most("x", 20.1, 20.0, "%").met is False
    assert table.at_most("x", float("nan"), 20.0, "%").met is False
    assert table.goals([goal]).splitlines()[-1].endswith("| **lost** |")


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert [table.number(value) for value in (0, 0.0123, 0.256, 12.34, 234.5, 12345.6, 5000, -0.5)] == [
        *("0", "0.012", "0.26", "12.3", "234", "12,346", "5,000", "-0.50")
    ]
    assert table.percentile([3, 1, 2], 0.5) == 2
    assert table.percentile([3, 1, 2], 0.99) == 3
    assert table.number(table.percentile([], 0.5)) == "-"


def test_our_configuration_moves_into_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    folder.mkdir()
    nginx.keys(folder)
    files = nginx.rendered(folder, nginx.inventory("127.24.0.5", 1, nginx.ROUTED))
    text = nginx.adapted(files["nginx.conf"].decode(), Path("/folder"), Path("/module.so"))
    assert "load_module /module.so;" in text
    assert "provision-nginx" not in text
    assert text.count("client_body_temp_path") == 1
    assert {model for model in MODELS if f'"{model}"' in files["gateway.json"].decode()} == set(MODELS)
    plain = nginx.rendered(folder, nginx.inventory("127.24.0.5", 1, {}))
    assert plain["upstream.conf"].decode().count("upstream ") == 1


def test_a_body_has_its_size() -> None:
    assert 0.9e6 < len(body(1, "tiny")) < 1.1e6


def figures(rise: float = 0.1) -> Figures:
    """Figures in which ours is ahead, and twice the memory of plain nginx."""
    names = (DIRECT, PLAIN, OURS, UNCOUNTED, LITELLM)
    ttft = dict(zip(names, (0.001, 0.0012, 0.0015, 0.0014, 0.02), strict=True))
    firsts = {name: [Answer(0.0, first=first, done=True)] * 9 for name, first in ttft.items()}
    served = {name: Served(100, name == LITELLM, 1.0, 0.01 * place) for place, name in enumerate(names)}
    held = {name: Held(50, 50, 0, place * 10**7, 500, 0.1, 10, 5.0, 2.0) for place, name in enumerate(names) if place}
    shared = Shared(firsts[OURS], [Answer(0.0, first=0.0015 * (1 + rise), done=True)], Counter({"200": 1, "429": 3}))
    proxies = (PLAIN, OURS, LITELLM)
    both = Losses(40, 0, 0), Losses(90, 0, 0)
    return Figures(
        firsts=firsts,
        served=served,
        held=held,
        many={name: held[name] for name in (PLAIN, OURS, UNCOUNTED)},
        priced={name: held[name] for name in (PLAIN, OURS, UNCOUNTED)},
        stalls={(*way, size): 0.004 for way in WAYS for size in SIZES},
        left={OURS: Left(8, 8), LITELLM: Left(16, 9)},
        shared=dict.fromkeys(proxies, shared),
        died=dict.fromkeys(proxies, Losses(100, 0, 4)),
        reloaded={PLAIN: both, OURS: both, LITELLM: (Losses(40, 0, 40), Losses(90, 60, 0, 12.0))},
    )


def test_the_report_has_every_row_and_every_goal() -> None:
    text = report.text(figures(), SMALL, "on this machine.", 480.0)
    assert "| added TTFT p50, ms | - | 0.20 | 0.50 | 19 | ahead |" in text
    assert "| requests/s, 4 clients | 100 | 100 | 100 | 100 (1 failed) | even |" in text
    assert "| 0 (8 admitted, then 8) | 7 (16 admitted, then 9) | ahead |" in text
    assert "| 60 (a restart of 12 s) | ahead |" in text
    assert "| added TTFT p50 under 1 ms | 0.50 ms | met |" in text
    assert "| 50 open, 20 MB with 5 tokens in each | met |" in text
    assert "| a flood by one key raises another key's TTFT p95 by at most 20 % | 10.0 % | met |" in text
    assert "at most 20 % | 30.0 % | **lost** |" in report.text(figures(0.3), SMALL, "", 480.0)
