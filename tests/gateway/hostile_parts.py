"""The parts of hostile requests: paths, headers, bodies, names of models, and spellings of keys."""

from collections.abc import Callable, Mapping
from typing import Any

CLOSED = (
    "/api/pull",
    "/api/push",
    "/api/create",
    "/api/copy",
    "/api/delete",
    "/api/blobs/sha256:0",
    "/api/me",
    "/api/signout",
    "/api/experimental/web_search",
    "/debug/pprof/",
    "/v1/audio/transcriptions",
    "/api/status",
)
RESIDENT = ("keep_alive", "shift", "num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread")
METHODS = ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", "PROPFIND", "P\u00d6ST", "")
TRICKS = (
    "{path}/../{bare}",
    "/v1/..{closed}",
    "/v1/%2e%2e{closed}",
    "/v1/models/../..{closed}",
    "/v1/models/%2e%2e%2f{bare}",
    "/{closed}",
    "{closed}/../..{path}",
    "{closed}/../../..{path}",
    "{path}?next={closed}",
    "{path}#{closed}",
    "{path}/",
    "{path};{closed}",
    "{path}%00{closed}",
    "{path}%0d%0aX: y",
    "{path}%20HTTP/1.1%0d%0a",
    "{path}\\..\\{bare}",
    "http://127.0.0.1{closed}",
    "http://x{path}",
    "{path} {closed}",
    "/%61pi/chat",
    "/API/CHAT",
    "/./api/./chat",
    "//api//chat",
    "@gateway_ollama",
    "/@gateway_ollama",
    "*",
    "/\u00e9{closed}",
    "/v1/models/",
    "/v1/models/%00",
    "/v1/models/__proto__",
    "/v1/models/{bare}",
    "/models/tiny{path}",
    "/models/tiny:latest{closed}",
    "/models/deepseek-r1:32b{path}",
    "/models/{bare}{path}",
    "/models/tiny/v1/..{closed}",
    "/models/tiny%00{path}",
    "/models/tiny%0d%0a{path}",
    "/models{path}/../{bare}",
    "{path}" + "/x" * 3000,
)
KEY_FORMS = (
    "",
    "x-api-key: {key}",
    "authorization: bearer  {key}",
    "Authorization: Basic {key}",
    "Authorization: {key}",
    "Authorization: Bearer {key} {key}",
    "Authorization: Bearer {key}\r\nAuthorization: Bearer x",
    "x-api-key: {key}\r\nx-api-key: {key}",
    "Authorization : Bearer {key}",
    "Authorization:\tBearer\t{key}",
)
STRANGE_KEYS = ("", "\x01\x02", "k" * 5000, "__proto__", "constructor", "\u00fc", "%00", "' or 1=1", "a\tb")
HEADERS = (
    ["Content-Encoding: zstd"],
    ["Content-Encoding: gzip"],
    ["Content-Encoding: 0"],
    ["Content-Encoding: "],
    ["content-encoding: identity"],
    ["Content-Encoding:"],
    ["X-Original-URL: /api/pull", "X-Rewrite-URL: /api/pull"],
    ["X-HTTP-Method-Override: DELETE"],
    ["Connection: x-api-key, authorization"],
    ["Range: bytes=0-1"],
    ["Upgrade: h2c"],
    ["Content-Type: multipart/form-data; boundary=x"],
    ["Content-Type: text/plain; charset=utf-16"],
    ["X-Gateway-Client: root", "X-Forwarded-For: 127.0.0.1"],
    ["Cookie: " + "c" * 7000],
    ["Origin: https://elsewhere.example", "Access-Control-Request-Method: POST"],
    ["\x00: x"],
    ["no colon"],
    [" folded: x"],
    ["TE: trailers"],
    ["Trailer: x-api-key"],
)
BODIES = (
    b"",
    b"null",
    b"[]",
    b'""',
    b"1",
    b"{}",
    b"not json",
    b"\x28\xb5\x2f\xfd\x04\x00",
    b"\x1f\x8b\x08\x00",
    b"{" * 200,
    b"[" * 100_000,
    b'{"model":' * 50 + b'"tiny"' + b"}" * 50,
    b'{"model":"tiny","a":' + b"[" * 40 + b"]" * 40 + b"}",
    b'{"model":"tiny","messages":[' + b'{"model":"x","role":"user"},' * 300 + b"{}]}",
    b'{"model":"tiny","model":"deepseek-r1:32b"}',
    b'{"model":"tiny","MODEL":"deepseek-r1:32b"}',
    b'{"model":"tiny","mod\\u0065l":"deepseek-r1:32b"}',
    b'{"model":"tiny","__proto__":{"keep_alive":0},"constructor":{"prototype":{"num_ctx":1}}}',
    b'{"__proto__":{"model":"tiny"}}',
    b'{"model":"tiny","keep_alive":0}',
    b'{"model":"tiny","KEEP_ALIVE":"0s","\\u212aeep_alive":0,"\xc5\xbfhift":true}',
    b'{"model":"tiny","options":{"NUM_CTX":4096,"num_\\u0067pu":0}}',
    b'{"model":"tiny","Options":{"num_ctx":4096},"options":{"seed":1}}',
    b'{"model":"tiny","messages":[],"keep_alive":0}',
    '{"model":"tiny"}'.encode("utf-16"),
    b'{"model":"tiny","prompt":"\xff\xfe"}',
    b'{"model":"ti\xffny"}',
    b'{"model":"tiny","options":{"seed":1e999}}',
    b'{"model":"tiny","options":{"seed":NaN}}',
    b'{"model":"tiny","prompt":"\\ud800"}',
    b'{"model":"tiny\\u0000"}',
    b'{"x\\"model":"deepseek-r1:32b","model":"tiny"}',
    b"{'model':'tiny'}",
    b'{"model":"tiny",}',
    b'{/* c */"model":"tiny"}',
    b"model=tiny",
)
OTHER_KEYS = (
    "template",
    "context",
    "unknown",
    "_debug_render_only",
    "max_tokens",
    "n",
    "adapters",
    "name",
    "__proto__",
)
STRANGE_MODELS: tuple[Any, ...] = (
    None,
    0,
    True,
    [],
    {},
    ["tiny"],
    {"model": "tiny"},
    "",
    " ",
    "tiny:cloud",
    "tiny-cloud",
    "../tiny",
    "tiny\u0000",
    "tiny\r\nX: y",
    "__proto__",
    "constructor",
    "hf.co/x/tiny",
    "m" * 5000,
    "library/tiny",
    "registry.ollama.ai/other/tiny",
    "https://registry.ollama.ai/library/tiny",
    "\u212aimi",
    "tiny:latest@sha256:" + "0" * 64,
    "tiny:",
    ":latest",
    "/",
)
VALUES = (
    "0",
    "-1",
    '"0s"',
    "true",
    "null",
    '"x"',
    "[]",
    "{}",
    "1e999",
    "99999999999999999999",
    '{"model":"x"}',
    "[0]",
)


def _same(letter: str) -> str:
    return letter


def _escaped(letter: str) -> str:
    return f"\\u{ord(letter):04x}"


def _escaped_upper(letter: str) -> str:
    return f"\\u{ord(letter.upper()):04X}"


def _long_s(letter: str) -> str:
    return "\u017f"


def _kelvin(letter: str) -> str:
    return "\\u212a"


_ANY = (_same, str.upper, _escaped, _escaped_upper)
SPELLINGS: Mapping[str, tuple[Callable[[str], str], ...]] = {
    **dict.fromkeys("abcdefghijlmnopqrtuvwxyz", _ANY),
    "s": (*_ANY, _long_s),
    "k": (*_ANY, _kelvin),
    "_": (_same, _escaped),
}
"""Letter of a key -> other ways to write the letter, which Go takes for the same letter."""
