"""A client that floods a proxy, as a program of its own, and a well-behaved client beside the flood.

python -m tests.bench.gateway.flood < asks.json
"""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.bench.gateway.client import Answer, Ask, Place, ask_at, asked
from tests.bench.gateway.places import FLOOD, Front
from tests.bench.gateway.rig import Rig

RATE, MOST = 200.0, 100
"""Requests of the flood in a second, and its open requests."""
SLOTS, PROMPT = 4, 50
"""Of an instance: answers at once, and milliseconds before a first token."""
LEAST = 10
"""Requests of the other client in a part: more than the seconds hold, where a request waits for long."""
_FLOOD, _OTHER = (10, 20), (2, 20)  # tokens, and milliseconds between two
_BEGINS = 1.0  # seconds
_ROOT = Path(__file__).parents[3]


@dataclass
class Shared:
    """The answers of a client without a flood and beside a flood.

    Args:
        quiet: answers without a flood.
        flooded: answers beside a flood.
        flood: statuses of the flood's requests.
    """

    quiet: list[Answer] = field(default_factory=list)
    flooded: list[Answer] = field(default_factory=list)
    flood: Counter[str] = field(default_factory=Counter)


def sharing(rig: Rig, front: Front, seconds: float, rounds: int) -> Shared:
    """Return the answers of a client, in turn without and beside a flood of another client.

    Args:
        rig: the ground.
        front: the proxy.
        seconds: length of each part.
        rounds: number of rounds.
    """
    found = Shared()
    rig.knobs(SLOTS, PROMPT)
    try:
        for _ in range(rounds):
            found.quiet += _asking(rig, front, seconds)
            with _flooding(rig, front) as statuses:
                time.sleep(_BEGINS)
                found.flooded += _asking(rig, front, seconds)
            found.flood += statuses
            time.sleep(_BEGINS)
    finally:
        rig.knobs()
    return found


def _asking(rig: Rig, front: Front, seconds: float) -> list[Answer]:
    tokens, pace = _OTHER
    until = time.monotonic() + seconds
    answers: list[Answer] = []
    while len(answers) < LEAST or time.monotonic() < until:
        answers.append(asked(rig.ask(front, len(answers), tokens=tokens, pace=pace)))
    return answers


@contextmanager
def _flooding(rig: Rig, front: Front) -> Iterator[Counter[str]]:
    """Flood for as long as the block lasts. The block gets the statuses at its end."""
    tokens, pace = _FLOOD
    asks = [asdict(rig.ask(front, number, FLOOD, tokens, pace)) for number in range(4)]
    words = [sys.executable, "-m", __name__]
    statuses: Counter[str] = Counter()
    with subprocess.Popen(
        words, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asks) + "\n")
            process.stdin.flush()
            assert process.stdout is not None
            process.stdout.readline()
            yield statuses
            said, _ = process.communicate(timeout=60)
            statuses.update(json.loads(said))
        finally:
            process.kill()


async def _flood(asks: list[Ask]) -> Counter[str]:
    """Say that the flood begins, flood until the end of standard input, and count the statuses and failures."""
    ended = asyncio.Event()
    print("the flood begins", flush=True)
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    answers = await ask_at(lambda number: asks[number % len(asks)], RATE, MOST, ended)
    return Counter(answer.failure or str(answer.status) for answer in answers)


def main() -> None:
    """Send requests of a JSON list, one line of standard input, until its end, and write the statuses."""
    asks = [Ask(**{**ask, "place": Place(**ask["place"])}) for ask in json.loads(sys.stdin.readline())]
    json.dump(asyncio.run(_flood(asks)), sys.stdout)


if __name__ == "__main__":
    main()
