"""The types of settings: accepted values, refused values, and short messages for long values."""

import json
import math
import pickle
from typing import Any

import pytest
from pydantic import ValidationError, create_model

from provision.errors import Problem
from provision.inventory import Secret, Settings, duration_seconds, size_bytes, types
from provision.inventory.check import validated
from provision.inventory.value import Value, plain

DIGEST = "a" * 64
TAKES: dict[str, list[Any]] = {
    "Name": ["ollama1", "a.b-c_d", "0", "a" * 63],
    "Port": [1, 3001, 65535],
    "Url": [
        "http://a",
        "https://mirrors.example.org:8443/x/y-1.26.tar.gz?a=b%20c",
        "http://[::1]:5000",
        "http://10.0.0.1/",
    ],
    "Sha256": [DIGEST, DIGEST.upper()],
    "Fingerprint": ["9DC8 5822 9FC7 DD38 854A  E2D8 8D81 803C 0EBF CD88", "9dc858229fc7dd38854ae2d88d81803c0ebfcd88"],
    "ImageRef": [
        "ollama/ollama",
        "ollama/ollama:0.34.4",
        f"reg.local:5000/a/b@sha256:{DIGEST}",
        f"a:1@sha256:{DIGEST}",
    ],
    "ModelName": ["deepseek-r1:32b", "llama3.2", "hf.co/unsloth/Qwen3-8B-GGUF:Q4_K_M", "10.0.0.1:5000/lib/m:t", "ns/m"],
    "AbsolutePath": ["/", "/var/lib/ollama", "/a b/ü"],
    "Address": ["10.0.0.1", "::1", "fe80::1"],
    "Duration": ["30s", "5m", "24h", "1h30m", "-1", "0", 300, -1, "1.5h"],
    "Size": ["50m", "8G", "8g", 1048576, "0"],
    "Version": ["1.26.3", "1.18.2-1", "5:29.1.3-1~debian.13~trixie", "0.34.4-rc1", "29"],
    "Text": ["", "anything at all: $(x) 'y' ü", "x" * 4096],
}
HOSTILE = [
    "",
    "a b",
    "a\nb",
    "a\0",
    "-x",
    "--",
    "$(id)",
    "`id`",
    "'",
    '"',
    ";",
    "a\u2028b",
    "\u202ex",
    "x" * 10_000_000,
]
REFUSES: dict[str, list[Any]] = {
    "Name": [*HOSTILE, "A", ".a", "_a", "a/b", "a" * 64, 1],
    "Port": [0, 65536, -1, "3001", True, 1.0],
    "Url": [
        *HOSTILE,
        "ftp://a",
        "http://",
        "//a",
        "http://u:p@a/",
        "http://a:0",
        "http://a:99999",
        "http://a/'",
        "http://-a",
    ],
    "Sha256": [*HOSTILE, "a" * 63, "g" * 64, 1],
    "Fingerprint": [*HOSTILE, "0EBFCD88", 1],
    "ImageRef": [*HOSTILE, "A/b", "a:", "a@sha256:abc", "a//b", "http://a", "-a:b"],
    "ModelName": [*HOSTILE, "-rf", "a:-b", "a/../b", "a:b:c", "http://a", "h:5000/m", "reg.example/m"],
    "AbsolutePath": [*HOSTILE, "a", "/a/../b", "/..", "/a\nb", "/a\x7f"],
    "Address": [*HOSTILE, "10.0.0", "10.0.0.256", "fe80::1%eth0", "example.org"],
    "Duration": [*HOSTILE, "5 m", "5x", "m", "--1", 1.5, True],
    "Size": [*HOSTILE, "8 g", "8gb", "-1", "1.5g", True],
    "Version": [*HOSTILE, "v1", "1..2", "latest", 1.26, 1],
    "Text": ["a\nb", "a\0", "a\u2028b", "x" * 10_000_000, 5],
}


def settings_of(name: str) -> type[Settings]:
    return create_model("One", __base__=Settings, value=(getattr(types, name), ...))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in TAKES.items() for value in values])
def test_a_type_accepts_good_values(name: str, value: Any) -> None:
    assert settings_of(name).model_validate({"value": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in REFUSES.items() for value in values],
    ids=lambda value: repr(value)[:20],
)
def test_a_type_refuses_bad_values_in_a_short_line(name: str, value: Any) -> None:
    cls = settings_of(name)
    with pytest.raises(ValidationError):
        cls.model_validate({"value": value})
    problems: list[Problem] = []
    source = Value({"value": Value(value, "f", 1, ("role", "value"), str(value))}, "f", 1, ("role",))
    assert validated(cls, source, problems) is None
    (problem,) = problems
    assert str(problem).startswith("f:1: role.value: must be ")
    assert len(str(problem)) < 300
    assert str(problem).isprintable()


def test_values_are_normalised() -> None:
    assert settings_of("Fingerprint")(value="9dc8 5822 9fc7 dd38 854a e2d8 8d81 803c 0ebf cd88").model_dump() == {
        "value": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
    }
    assert settings_of("Size")(value="8G").model_dump() == {"value": "8g"}
    assert settings_of("Address")(value="FD00:0::1").model_dump() == {"value": "fd00::1"}
    assert settings_of("Duration")(value=-1).model_dump() == {"value": "-1"}


def test_durations_and_sizes_can_be_counted() -> None:
    counted = {text: duration_seconds(text) for text in ("30s", "5m", "1h30m", "1.5h", "300", "0", "-1", "10ms")}
    assert counted == {
        "30s": 30,
        "5m": 300,
        "1h30m": 5400,
        "1.5h": 5400,
        "300": 300,
        "0": 0,
        "-1": math.inf,
        "10ms": 0.01,
    }
    assert [size_bytes(text) for text in ("1", "50m", "8g")] == [1, 50 * 2**20, 8 * 2**30]


class WithSecret(Settings):
    key: Secret
    text: str = ""
    many: tuple[str, ...] = ()
    pairs: dict[str, str | Secret] = {}  # noqa: RUF012 - pydantic copies defaults


def test_a_secret_never_shows() -> None:
    secret = Secret("hunter2")
    found = WithSecret(key=secret, text="x", pairs={"a": secret})
    shown = [
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret:>20}",
        str([secret]),
        repr(found),
        str(found),
    ]
    shown += [found.model_dump_json(), json.dumps(found.model_dump(mode="json")), str(found.model_dump())]
    assert not any("hunter2" in text for text in shown)
    assert all("[secret]" in text for text in shown)


def test_a_secret_is_a_value() -> None:
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))
    assert pickle.loads(pickle.dumps(Secret("a"))).reveal() == "a"  # noqa: S301
    assert not Secret("")


def test_a_secret_in_a_plain_field_becomes_text() -> None:
    secret = Secret("hunter2")
    found = WithSecret.model_validate({"key": secret, "text": secret, "many": [secret], "pairs": {"a": secret}})
    assert (found.text, found.many, found.pairs) == ("hunter2", ("hunter2",), {"a": secret})


@pytest.mark.parametrize("field", ["url", "key", "number"])
def test_a_problem_never_shows_a_secret(field: str) -> None:
    cls = create_model("One", __base__=Settings, url=(types.Url, "http://a"), key=(Secret, ""), number=(int, 1))
    hidden = Value(Secret("hunter2"), "f", 1, (field,), "NAME") if field != "key" else Value(12345, text="12345")
    problems: list[Problem] = []
    assert validated(cls, Value({field: hidden}), problems) is None
    assert problems
    assert not any("hunter2" in str(problem) or "12345" in str(problem) for problem in problems)


def test_lists_become_tuples_and_values_are_frozen() -> None:
    found = WithSecret.model_validate({"key": "k", "many": ["a"]})
    assert found.many == ("a",)
    with pytest.raises(ValidationError):
        found.text = "y"
    assert plain(Value((Value("a"),))) == ("a",)
