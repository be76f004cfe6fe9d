"""Seconds without service, as a probe of the common address counts."""

import pytest

from tests.pair import Probe


@pytest.mark.parametrize(
    ("answers", "lost", "silence"),
    [
        pytest.param([(1, 1.1), (2, 2.1)], 0, 0.0, id="nothing lost"),
        pytest.param([(1, 1.1), (2, 0), (3, 0), (4, 4.5), (5, 5.1)], 2, 2.5, id="up to the answer, not its request"),
        pytest.param([(4, 4.5), (1, 0), (3, 0), (2, 2.25)], 2, 1.5, id="in the order of the requests"),
        pytest.param([(1, 1.1), (2, 0)], 1, 0.0, id="no end in sight"),
    ],
)
def test_silence_lasts_from_a_lost_request_to_the_next_answer(answers, lost, silence):
    probe = Probe("192.0.2.1", answers)
    assert (probe.lost, probe.silence) == (lost, silence)
