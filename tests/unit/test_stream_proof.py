"""The proof of verify that an answer streams through a balancer."""

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.steps.ollama import stream_proof

Arrival = Callable[[int, int], int]
"""The time of a frame in milliseconds, by the number of the frame and of the requested tokens."""


SERVING = {f"gpu-0{host}/ollama{n}": f"10.1.0.1{host}:300{n}" for host in (1, 2) for n in (1, 2)}
PLACES = list(SERVING.values())


class Streaming:
    """A balancer through which an answer of 20 ms a token comes, in front of four instances.

    Args:
        arrival: the times of the lines of an answer.
        loaded: the loaded model of an instance, by address.
    """

    def __init__(self, arrival: Arrival, loaded: dict[str, str]) -> None:
        self.arrival = arrival
        self.loaded = loaded
        self.asked: list[int] = []
        self.stdout = ""

    def run(self, words: str, *arguments: str) -> "Streaming":
        if arguments[0] == stream_proof.LOADED:
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
    """Return the results of the proofs, and the lengths of the requested answers."""
    live = Streaming(arrival, dict.fromkeys(PLACES, "m:1"))
    return [check.passed for check in stream_proof.stream(live, "http://x", "m:1", SERVING)], live.asked


def test_an_undelayed_stream_passes() -> None:
    assert streamed(lambda number, tokens: number * 20) == ([True, True], [24])


def test_after_a_short_answer_in_one_lump_a_longer_answer_is_requested() -> None:
    assert streamed(lambda number, tokens: number * 20 if tokens > 24 else 0) == ([True, True], [24, 96])


def test_a_balancer_that_buffers_answers_of_any_length_fails() -> None:
    assert streamed(lambda number, tokens: 5000) == ([True, False], [24, 96, 384])


def test_a_model_not_loaded_everywhere_is_not_requested_because_a_request_would_load_it() -> None:
    live = Streaming(lambda number, tokens: number * 20, dict.fromkeys(PLACES[:3], "m:1"))
    [check] = stream_proof.stream(live, "http://x", "m:1", SERVING)
    assert (check.passed, live.asked) == (True, [])
    assert check.name.startswith("not asked: ")
    assert "m:1 is not loaded on gpu-02/ollama2, and" in check.name


def test_the_read_of_loaded_models_finds_each_of_many_and_takes_silence_for_no_model(tmp_path: Path) -> None:
    details = {"format": "gguf", "family": "llama", "families": ["llama"], "quantization_level": "Q4_K_M"}
    loaded = [{"name": f"m:{n}", "model": f"m:{n}", "digest": "0" * 64, "details": details} for n in range(40)]
    (tmp_path / "ps").write_text(json.dumps({"models": loaded}))
    curl = tmp_path / "curl"
    curl.write_text(f"#!/bin/sh\nfor url do :; done\ncase $url in *2:3001/*) exit 7;; *) cat {tmp_path}/ps;; esac\n")
    curl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    class Host(Streaming):
        def run(self, words: str, *arguments: str) -> Streaming:
            if arguments[:1] == (stream_proof.LOADED,):
                command = ["sh", "-c", arguments[0], "sh", *arguments[1:]]
                self.stdout = subprocess.run(
                    command, capture_output=True, text=True, env=environment, check=True
                ).stdout
                return self
            return super().run(words, *arguments)

    live = Host(lambda number, tokens: number * 20, {})
    [check] = stream_proof.stream(live, "http://x", "m:39", SERVING)
    silent = [f"gpu-02/ollama{n}" for n in (1, 2)]
    assert check.name.startswith(
        f"not asked: a streamed answer through the balancer: m:39 is not loaded on {silent[0]}"
    )
    assert "gpu-01" not in check.name


class Embedding(Streaming):
    """A balancer in front of four instances with an embedding model."""

    def __init__(self, answer: str) -> None:
        super().__init__(lambda *_: 0, dict.fromkeys(PLACES, "m:1"))
        self.answer = answer

    def run(self, words: str, *arguments: str) -> "Streaming":
        if words == stream_proof.EMBED:
            self.stdout = self.answer if arguments[-1] == "http://x/api/embed" else "nothing"
            return self
        if arguments[0] == stream_proof.STREAM:
            self.stdout = '12 {"error":"\\"m:1\\" does not support generate"}'
            return self
        return super().run(words, *arguments)


@pytest.mark.parametrize(("answer", "passed"), [('{"embeddings":[[1]]}', True), ('{"error":"model not found"}', False)])
def test_an_embedding_model_is_proved_by_an_embedding(answer: str, passed: bool) -> None:
    (check,) = stream_proof.stream(Embedding(answer), "http://x", "m:1", SERVING)
    assert (check.name, check.passed) == ("an embedding through the balancer", passed)


def test_a_line_has_its_time_of_arrival(tmp_path: Path) -> None:
    curl = tmp_path / "curl"
    curl.write_text("#!/bin/sh\nprintf 'a  b\\\\n\\n'; sleep 0.1; printf c\n")  # an error ends without a line break
    curl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["sh", "-c", stream_proof.STREAM, "sh", "http://x", "{}"]
    said = subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    times, texts = zip(*(line.split(" ", 1) for line in said), strict=True)
    assert texts == ("a  b\\n", "c")
    assert int(times[1]) > int(times[0])
