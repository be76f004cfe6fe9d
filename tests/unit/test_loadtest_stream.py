"""Every end of a stream, from tests/loadtest/streams.yaml, and streams invented by hypothesis."""

import itertools
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provision.loadtest.stream import LONGEST_LINE, Stream

CASES = yaml.safe_load((Path(__file__).parents[1] / "loadtest/streams.yaml").read_text())


def followed(data: bytes, *, openai: bool, cuts: tuple[int, ...] = ()) -> Stream:
    """Return a stream fed in pieces, a second apart."""
    stream = Stream(openai=openai)
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for number, (start, end) in enumerate(itertools.pairwise(places)):
        stream.feed(data[start:end], float(number))
    stream.end(float(len(places)))
    return stream


@pytest.mark.parametrize("name", CASES)
def test_a_stream_ends(name):
    case = CASES[name]
    stream = followed(case["bytes"].encode(), openai=case.get("openai", False))
    assert stream.problem == case["problem"]
    assert stream.tokens == case.get("tokens", 0)
    assert case.get("detail", "") in stream.detail
    assert (stream.first is not None) == bool(case.get("frames", stream.tokens))


@pytest.mark.parametrize("name", CASES)
@given(cuts=st.lists(st.integers(0, 5000), max_size=20))
def test_the_pieces_of_a_stream_do_not_change_the_verdict(name, cuts):
    case = CASES[name]
    data = case["bytes"].encode()
    stream = followed(data, openai=case.get("openai", False), cuts=tuple(cuts))
    assert (stream.problem, stream.tokens) == (case["problem"], case.get("tokens", 0))


@given(data=st.binary(max_size=3000), openai=st.booleans())
def test_any_bytes_of_a_server_are_judged(data, openai):
    stream = followed(data, openai=openai)
    assert stream.problem, "random bytes are no complete answer"


@given(
    frame=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["response", "message", "done", "eval_count", "choices", "delta", "usage"]), inner
            )
        ),
        max_leaves=12,
    ),
    openai=st.booleans(),
)
def test_frames_of_any_shape_raise_no_error(frame, openai):
    stream = followed(json.dumps(frame).encode() + b"\n", openai=openai)
    assert stream.tokens >= 0


def test_the_first_token_may_be_thinking_and_gaps_lie_between_tokens():
    stream = Stream()
    stream.feed(b'{"response":"","thinking":"hm","done":false}\n', 3.0)
    stream.feed(b'{"response":"a","done":false}\n', 3.5)
    stream.feed(b'{"response":"b","done":false}\n', 5.5)
    stream.feed(
        b'{"response":"","done":true,"eval_count":3,"load_duration":1000000000,"prompt_eval_duration":5}\n', 6.0
    )
    assert stream.end(6.0) == ""
    assert (stream.first, stream.last, stream.gaps, stream.load) == (3.0, 5.5, [0.5, 2.0], 1.0)


def test_an_endless_line_is_not_kept():
    stream = Stream()
    for _ in range(6):
        stream.feed(b"x" * (LONGEST_LINE // 4), 1.0)
    assert stream.end(2.0) == "not a stream"
