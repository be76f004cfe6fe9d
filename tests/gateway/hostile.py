"""Hostile requests by the thousand, the same for the same seed."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.gateway import hostile_parts as parts
from tests.gateway.rules import ASKED, NATIVE, OPENAI, SAFE_KEYS, SAFE_OPTIONS


@dataclass(frozen=True)
class Attack:
    """A request.

    Attributes:
        request: the bytes.
        ends: whether the client ends its side after the bytes, because nginx would wait for more.
    """

    request: bytes
    ends: bool


def attacks(seed: int, count: int, keys: tuple[str, ...], models: tuple[str, ...], cap: int) -> Iterator[Attack]:
    """Yield requests.

    Args:
        seed: the same seed gives the same requests.
        count: how many.
        keys: keys to try: good, bad and strange.
        models: names of models to try.
        cap: greatest size of a body in bytes.
    """
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    for _ in range(count):
        yield _Maker(rng, keys, models, cap).attack()


class _Maker:
    """Makes one request."""

    def __init__(self, rng: random.Random, keys: tuple[str, ...], models: tuple[str, ...], cap: int) -> None:
        self._rng, self._keys, self._models, self._cap = rng, keys, models, cap

    def _maybe(self, share: float) -> bool:
        return self._rng.random() < share

    def attack(self) -> Attack:
        """Make a request: most are right in all but a few places, so that they get far."""
        path = self._path()
        method = self._rng.choice(parts.METHODS) if self._maybe(0.1) else "POST"
        body = self._body()
        headers = [f"Host: {self._rng.choice(('gateway', 'localhost', 'a' * 300, '../x'))}", *self._key_headers()]
        if self._maybe(0.25):
            headers += self._rng.choice(parts.HEADERS)
        if self._maybe(0.02):
            headers += [f"X-{n}: {'b' * self._rng.choice((10, 900))}" for n in range(self._rng.choice((20, 100)))]
        framed, sent, whole = self._framed(body)
        self._rng.shuffle(headers)
        line = f"{method} {path} HTTP/{self._rng.choice(('1.1', '1.1', '1.1', '1.1', '1.0'))}"
        head = "\r\n".join([line, *headers, *framed, "Connection: close"])
        return Attack(head.encode("utf-8", "surrogatepass") + b"\r\n\r\n" + sent, not whole)

    def _path(self) -> str:
        path = self._rng.choice((*NATIVE, *OPENAI))
        if self._maybe(0.7):
            return path
        if self._maybe(0.3):
            return self._rng.choice((*parts.CLOSED, *ASKED))
        closed = self._rng.choice(parts.CLOSED)
        return self._rng.choice(parts.TRICKS).format(path=path, closed=closed, bare=closed.lstrip("/"))

    def _key_headers(self) -> list[str]:
        key = self._keys[0] if self._maybe(0.8) else self._rng.choice((*self._keys, *parts.STRANGE_KEYS))
        form = "Authorization: Bearer {key}" if self._maybe(0.7) else self._rng.choice(parts.KEY_FORMS)
        headers = [form.format(key=key)] if form else []
        if self._maybe(0.05):
            headers.append(f"x-api-key: {self._rng.choice(self._keys)}")
        return headers

    def _framed(self, body: bytes) -> tuple[list[str], bytes, bool]:
        """Return the headers of the body's length, the sent bytes, and whether nginx waits for no more."""
        if self._maybe(0.8):
            return [f"Content-Length: {len(body)}"], body, True
        chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:]) if part) + b"0\r\n\r\n"
        lie = self._rng.choice((len(body) + 5, max(len(body) - 3, 0), 10**9, -1))
        return self._rng.choice(
            (
                (["Transfer-Encoding: chunked"], chunked, True),
                ([f"Content-Length: {len(body)}", "Transfer-Encoding: chunked"], chunked, False),
                (["Transfer-Encoding: chunked"], body, False),
                (["Transfer-Encoding: gzip, chunked"], chunked, False),
                (["Transfer-Encoding: chunked"], b"ffffffffffffffff\r\n" + body, False),
                ([f"Content-Length: {lie}"], body, False),
                ([f"Content-Length: {len(body)}", f"Content-Length: {lie}"], body, False),
                ([f"Content-Length: {len(body)}", "Expect: 100-continue"], body, True),
                ([], body, False),
            )
        )

    def _body(self) -> bytes:
        if self._maybe(0.12):
            return self._rng.choice(parts.BODIES)
        if self._maybe(0.01):
            return b'{"model":"tiny","prompt":"' + b"a" * self._cap + b'"}'
        text = "{" + ",".join(self._pairs()) + "}"
        if self._maybe(0.04):
            text = self._rng.choice(
                (text + text, text[:-1], text + "x", "[" + text + "]", "\ufeff" + text, text + ",{}")
            )
        data = text.encode("utf-8", "surrogatepass")
        if self._maybe(0.05) and data:
            place = self._rng.randrange(len(data))
            data = data[:place] + bytes([self._rng.randrange(256)]) + data[place + self._rng.randrange(2) :]
        return data

    def _pairs(self) -> list[str]:
        pairs = [f"{self._key('model')}:{json.dumps(self._model())}"] if self._maybe(0.97) else []
        more = self._rng.choice((0, 0, 0, 0, 0, 0, 1, 2))
        pairs += [f"{self._key('model', 0.6)}:{json.dumps(self._model())}" for _ in range(more)]
        for _ in range(self._rng.randrange(4)):
            name = self._rng.choice((*parts.RESIDENT, *sorted(SAFE_KEYS), *parts.OTHER_KEYS))
            pairs.append(f"{self._key(name, 0.3)}:{self._value(name)}")
        if self._maybe(0.6):
            inner = [self._rng.choice((*parts.RESIDENT, *sorted(SAFE_OPTIONS))) for _ in range(self._rng.randrange(4))]
            pairs.append(
                f"{self._key('options', 0.2)}:{{{','.join(f'{self._key(n, 0.3)}:{self._value(n)}' for n in inner)}}}"
            )
        self._rng.shuffle(pairs)
        return pairs

    def _key(self, name: str, share: float = 0.04) -> str:
        """Return a key as JSON, sometimes in another spelling that Go takes for the same key."""
        if not self._maybe(share):
            return json.dumps(name)
        spelled = "".join(self._rng.choice(parts.SPELLINGS[letter])(letter) for letter in name)
        return f'"{spelled}"'

    def _model(self) -> Any:
        if self._maybe(0.05):
            return self._rng.choice(parts.STRANGE_MODELS)
        model = self._rng.choice(self._models)
        return self._rng.choice((str, str, str, str.upper, str.title, "registry.ollama.ai/library/{}".format))(model)

    def _value(self, name: str) -> str:
        if name == "options":
            return self._rng.choice(('{"num_ctx":9}', "[]", "null", '"num_ctx"', '[["num_ctx",9]]', "1"))
        return self._rng.choice(parts.VALUES)
