"""The simulated model itself: the words of an answer, the count of tokens, the speed, and vectors. All call themselves
simulated where a person can read them, and the same request has the same answer."""

import hashlib
import zlib
from collections.abc import Iterable

from .ollama_lab import knob

THINKING = ["(simulated", " thinking", " of", " the", " provision", " lab)"]
_VOCABULARY = 262144


def answer(prompt: str, *, as_json: bool = False) -> list[str]:
    """The words of the answer to a prompt, as text or as a JSON object: as many as the knob `answer_tokens` says."""
    text = f"This answer is simulated by the provision lab; no language model made it. Words asked: {_count(prompt)}."
    words = text.split()
    words += ["simulated"] * (int(knob("answer_tokens", len(words))) - len(words))
    if as_json:
        words = [f'{{"simulated":"{words[0]}', *words[1:-1], f'{words[-1]}"}}']
    return [word if index == 0 else f" {word}" for index, word in enumerate(words)]


def tokens(text: str) -> int:
    """How many tokens a text counts as."""
    return max(1, int(_count(text) * 1.3))


def token_ids(words: Iterable[str]) -> list[int]:
    """The `context` of an answer: a number for each word."""
    return [zlib.crc32(word.encode(errors="replace")) % _VOCABULARY for word in words]


def pause(share: float) -> float:
    """Seconds between two tokens of one stream alone, by the share of the model that is on cards (0 to 1)."""
    return 1 / max(0.1, knob("tokens_per_second", 60) * (0.1 + 0.9 * share))


def reading(count: int) -> float:
    """Seconds before the first token of an answer to a prompt of so many tokens."""
    return 0.02 + count / 5000


def vector(text: str, length: int) -> list[float]:
    """A vector for a text, of length 1 as the real server's."""
    seed = hashlib.sha256(text.encode(errors="replace")).digest()
    raw = [(seed[index % 32] + index % 7 - 128) or 1 for index in range(length)]
    size = sum(number * number for number in raw) ** 0.5
    return [round(number / size, 9) for number in raw]


def _count(text: str) -> int:
    return len(text.split())
