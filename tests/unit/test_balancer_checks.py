"""What verify finds in an upstream that does not lead where its labels say."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.inventory import Inventory
from provision.steps.facts import Fleet
from provision.steps.nginx import balancer_checks
from provision.steps.nginx.upstream import Drained, Upstream
from tests.unit.balancer_fleet import config, fleet, host, texts

TWINS, TORN, SAID = (
    "instances at one address and port",
    "hosts with several addresses",
    "addresses that the inventory says",
)


class Live:
    """A balancer with this upstream, from which everything answers."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.stdout = upstream, ""

    def run(self, words: str, *arguments: str) -> "Live":
        answers = "".join(f"{address} 200\n" for address in arguments[1:])
        self.stdout = self.upstream if words.startswith("cat ") else answers
        return self


def failed(inventory: Inventory, upstream: str, name: str = "lb-01") -> dict[str, Any]:
    """The proofs that fail."""
    step = config(inventory, name)
    expected = {one.label: (one.port, one.weight, one.max_conns) for one in step.servers}
    settled = {one.label: one.address for one in step.servers if one.settled}
    return {
        check.name: check.got
        for check in balancer_checks.members(Live(upstream), expected, settled)
        if not check.passed
    }


def upstream(*edits: tuple[str, str], inventory: Inventory | None = None, name: str = "lb-01") -> str:
    """The upstream as written, with one edit each of the first place."""
    known = Fleet({"gpu-01": "10.1.0.11", "gpu-02": "10.1.0.12"})
    text = texts(config(inventory or fleet(), name), known)["upstream.conf"]
    for old, new in edits:
        assert old in text
        text = text.replace(old, new, 1)
    return text


def test_what_is_written_is_right() -> None:
    assert failed(fleet(), upstream()) == {}


def test_an_instance_pointed_at_the_same_port_of_another_host() -> None:
    found = failed(fleet(), upstream(("server 10.1.0.12:3001", "server 10.1.0.11:3001")))
    assert found == {
        TWINS: {"10.1.0.11:3001": ["gpu-01/ollama1", "gpu-02/ollama1"]},
        TORN: {"gpu-02": ["10.1.0.11", "10.1.0.12"]},
    }


def test_an_instance_pointed_at_a_stranger() -> None:
    found = failed(fleet(), upstream(("server 10.1.0.12:3001", "server 10.9.9.9:3001")))
    assert found == {TORN: {"gpu-02": ["10.1.0.12", "10.9.9.9"]}}


@pytest.mark.parametrize("count", [1, 2])
def test_on_the_host_itself_the_address_is_known(count: int) -> None:
    inventory = Inventory(path="x", hosts=(host("a", "gpu", count=count),))
    edits = [(f"server 127.0.0.1:300{n}", f"server 10.9.9.9:300{n}") for n in range(1, count + 1)]
    found = failed(inventory, upstream(*edits, inventory=inventory, name="a"), "a")
    assert found == {SAID: {f"a/ollama{n}": "10.9.9.9" for n in range(1, count + 1)}}


def test_who_is_down_is_at_no_address_of_its_own() -> None:
    edits = [(f"server 10.1.0.1{n}:3001", "server 192.0.2.1:3001") for n in (1, 2)]
    text = upstream(*edits).replace(
        ":3001 weight=1 max_conns=5 max_fails=2 fail_timeout=30s;",
        ":3001 weight=1 max_conns=5 max_fails=2 fail_timeout=30s down;",
    )
    assert set(failed(fleet(), text)) == {"instances marked down"}


# -- a streamed answer

Arrival = Callable[[int, int], int]
"""When a frame comes, in milliseconds: of its number, and how many tokens were asked for."""


PLACES = [f"10.1.0.1{host}:300{instance}" for host in (1, 2) for instance in (1, 2)]


class Streaming:
    """A balancer through which an answer of 20 ms a token comes, in front of four instances.

    Args:
        arrival: when the lines of an answer come.
        loaded: address of an instance -> the model that it has loaded.
    """

    def __init__(self, arrival: Arrival, loaded: dict[str, str]) -> None:
        self.arrival = arrival
        self.loaded = loaded
        self.asked: list[int] = []
        self.stdout = ""

    def run(self, words: str, *arguments: str) -> "Streaming":
        if words.startswith("cat "):
            self.stdout = upstream()
            return self
        if arguments[0] == balancer_checks.LOADED:
            bodies = {at: json.dumps({"models": [{"name": self.loaded.get(at, "other:1")}]}) for at in arguments[1:]}
            encoded = {at: base64.b64encode(body.encode()).decode() for at, body in bodies.items()}
            self.stdout = "".join(f"{at} {body}\n" for at, body in encoded.items())
            return self
        tokens = json.loads(arguments[-1])["options"]["num_predict"]
        self.asked.append(tokens)
        frames: list[dict[str, Any]] = [{"response": "1 "}] * tokens
        frames.append({"done": True, "eval_duration": tokens * 20_000_000})
        lines = (f"{self.arrival(number, tokens)} {json.dumps(frame)}" for number, frame in enumerate(frames))
        self.stdout = "\n".join(lines)
        return self


def streamed(arrival: Arrival) -> tuple[list[bool], list[int]]:
    """Which proofs hold, and how long the answers were that they took."""
    live = Streaming(arrival, dict.fromkeys(PLACES, "m:1"))
    return [check.passed for check in balancer_checks.stream(live, "http://x", "m:1")], live.asked


def test_a_stream_that_comes_as_it_is_made() -> None:
    assert streamed(lambda number, tokens: number * 20) == ([True, True], [24])


def test_a_host_that_was_busy_when_a_short_answer_came_is_asked_for_a_longer_one() -> None:
    assert streamed(lambda number, tokens: number * 20 if tokens > 24 else 0) == ([True, True], [24, 96])


def test_a_balancer_that_holds_answers_back_fails_however_long_they_are() -> None:
    assert streamed(lambda number, tokens: 5000) == ([True, False], [24, 96, 384])


def test_a_model_that_an_instance_does_not_have_loaded_is_not_asked_for_because_that_would_load_it() -> None:
    live = Streaming(lambda number, tokens: number * 20, dict.fromkeys(PLACES[:3], "m:1"))
    [check] = balancer_checks.stream(live, "http://x", "m:1")
    assert (check.passed, live.asked) == (True, [])
    assert check.name.startswith("not asked: ")
    assert "m:1 is not loaded on gpu-02/ollama2, and" in check.name


def test_the_look_for_loaded_models_finds_each_of_many_and_takes_silence_for_none(tmp_path: Path) -> None:
    details = {"format": "gguf", "family": "llama", "families": ["llama"], "quantization_level": "Q4_K_M"}
    loaded = [{"name": f"m:{n}", "model": f"m:{n}", "digest": "0" * 64, "details": details} for n in range(40)]
    (tmp_path / "ps").write_text(json.dumps({"models": loaded}))
    curl = tmp_path / "curl"
    curl.write_text(f"#!/bin/sh\nfor url do :; done\ncase $url in *2:3001/*) exit 7;; *) cat {tmp_path}/ps;; esac\n")
    curl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    class Host(Streaming):
        def run(self, words: str, *arguments: str) -> Streaming:
            if arguments[:1] == (balancer_checks.LOADED,):
                command = ["sh", "-c", arguments[0], "sh", *arguments[1:]]
                self.stdout = subprocess.run(
                    command, capture_output=True, text=True, env=environment, check=True
                ).stdout
                return self
            return super().run(words, *arguments)

    live = Host(lambda number, tokens: number * 20, {})
    [check] = balancer_checks.stream(live, "http://x", "m:39")
    silent = [f"gpu-02/ollama{n}" for n in (1, 2)]
    assert check.name.startswith(
        f"not asked: a streamed answer through the balancer: m:39 is not loaded on {silent[0]}"
    )
    assert "gpu-01" not in check.name


class Embedding(Streaming):
    """A balancer in front of four instances with a model that only embeds."""

    def __init__(self, answer: str) -> None:
        super().__init__(lambda *_: 0, dict.fromkeys(PLACES, "m:1"))
        self.answer = answer

    def run(self, words: str, *arguments: str) -> "Streaming":
        if words == balancer_checks.EMBED:
            self.stdout = self.answer if arguments[-1] == "http://x/api/embed" else "nothing"
            return self
        if arguments[0] == balancer_checks.STREAM:
            self.stdout = '12 {"error":"\\"m:1\\" does not support generate"}'
            return self
        return super().run(words, *arguments)


@pytest.mark.parametrize(("answer", "passed"), [('{"embeddings":[[1]]}', True), ('{"error":"model not found"}', False)])
def test_a_model_that_only_embeds_is_proved_by_an_embedding(answer: str, passed: bool) -> None:
    (check,) = balancer_checks.stream(Embedding(answer), "http://x", "m:1")
    assert (check.name, check.passed) == ("an embedding through the balancer", passed)


def test_a_line_has_the_time_at_which_it_came(tmp_path: Path) -> None:
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\nprintf 'a  b\\\\n\\n'; sleep 0.1; printf c\n")  # an error has no line's end
    curl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["sh", "-c", balancer_checks.STREAM, "sh", "http://x", "{}"]
    said = subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    times, texts = zip(*(line.split(" ", 1) for line in said), strict=True)
    assert texts == ("a  b\\n", "c")
    assert int(times[1]) > int(times[0])


def test_who_was_drained_is_named_and_need_not_answer() -> None:
    why = Drained("gpu-01/ollama1", "2026-11-22T08:00:00Z", "ops@desk", "a new fan")
    written = Upstream.parse(upstream())
    assert written is not None
    text = written.updated(drain={why.label: why}).text
    assert failed(fleet(), text) == {}
    names = [check.name for check in balancer_checks.members(Live(text), {})]
    assert "drained: gpu-01/ollama1 since 2026-11-22T08:00:00Z by ops@desk: a new fan" in names
    assert not any(name.startswith("gpu-01/ollama1 answers") for name in names)
