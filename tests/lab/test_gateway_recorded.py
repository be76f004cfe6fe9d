"""Answers of a real Ollama, as recorded for the contract, through the gateway: the log has the tokens of the answer.

The instances replay the recordings. SIMULATED, but for the bytes of the answers.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from provision.steps.ollama import gateway_paths
from tests.contract.ollama import cases
from tests.gateway.balancer import Balancer

pytestmark = pytest.mark.lab
COUNTS = re.compile(r'(?<!\\)"(prompt_eval_count|eval_count|\w+_tokens)":(\d+)')
"""The counts of an answer: a quote of a generated text has a backslash before it."""


ASKED = ("prompt_eval_count", "prompt_tokens", "input_tokens")
MADE = ("eval_count", "completion_tokens", "output_tokens")


class Recording(NamedTuple):
    """A recorded answer of a path that the gateway routes."""

    name: str
    path: str
    kind: str
    body: str

    @property
    def frames(self) -> list[str]:
        """The frames of a stream, or the whole body."""
        end = {"application/x-ndjson": "\n", "text/event-stream": "\n\n"}.get(self.kind)
        return [f"{frame}{end}" for frame in self.body.split(end)[:-1]] if end else [self.body]

    @property
    def tokens(self) -> tuple[int, int] | None:
        """Tokens of question and answer, from the last frame with counts; None without counts.

        A stream of events has counts before its end too: 0 everywhere, or in the event `message_start`.
        """
        is_stream = self.kind == "text/event-stream"
        frames = [frame for frame in self.frames if "message_start" not in frame]
        counts = {name: int(count) for name, count in COUNTS.findall("".join(frames))}
        asked = [count for name, count in counts.items() if name in ASKED]
        made = [count for name, count in counts.items() if name in MADE]
        if not counts or (is_stream and sum(asked + made) == 0):
            return None
        return sum(asked), sum(made)


def recordings() -> Iterator[Recording]:
    """Yield the answers of both recorded versions: recorded to their end, or events up to the end of the recording."""
    routed = {path.path for path in (*gateway_paths.OPENAI, *gateway_paths.NATIVE)}
    known = {case.name: case.requests[0] for case in cases.load()}
    for version in ("0.17", "0.33"):
        recorded: dict[str, dict[str, Any]] = json.loads((cases.FOLDER / f"recorded-{version}.json").read_text())
        for name, answer in recorded.items():
            path = known[name].path if name in known else ""
            whole = len(answer.get("body", "").encode()) == answer.get("bytes")
            if path in routed and known[name].method == "POST" and answer.get("status") == 200:
                kind = {key.lower(): value for key, value in answer["headers"]}.get("content-type", "").partition(";")[
                    0
                ]
                if whole or kind == "text/event-stream":
                    yield Recording(f"{version} {name}", path, kind, answer["body"])


RECORDINGS = list(recordings())


def test_there_are_recordings_of_both_apis() -> None:
    paths = {recording.path for recording in RECORDINGS if recording.tokens}
    assert paths >= {"/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", "/v1/messages"}
    assert paths >= {"/v1/responses"}
    assert {recording.kind for recording in RECORDINGS} >= {"application/x-ndjson", "text/event-stream"}


@pytest.mark.parametrize("recording", RECORDINGS, ids=[recording.name for recording in RECORDINGS])
def test_the_log_has_the_tokens_of_a_recorded_answer(front: Balancer, recording: Recording) -> None:
    front.instances[1].recorded = recording.kind, recording.frames
    try:
        reply = front.post(recording.path, {"model": "tiny"})
    finally:
        front.instances[1].recorded = None
    assert reply.body.decode() == "".join(recording.frames), "the answer passes byte for byte"
    row = front.gateway.row(reply.mark)
    if recording.tokens:
        found = (int(row["tokens_in"]), int(row["tokens_out"]), row["estimated"])
        assert found == (*recording.tokens, "false")
    elif recording.kind == "text/event-stream":
        assert (int(row["tokens_out"]), row["estimated"]) == (len(recording.frames), "true")
