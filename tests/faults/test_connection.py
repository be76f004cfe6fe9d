"""The connection is cut at every step of a first deploy and of a change: the run says so and ends, nothing half-done is
live, and the next deploy goes on from there."""

import pytest

from tests.faults.cuts import CUTS
from tests.faults.walk import PLACES, cut_there

pytestmark = [pytest.mark.lab, pytest.mark.faults]
KINDS = [cut for cut in CUTS.values() if cut.code is not None]
SAMPLE = ("reset", "change of a balancer, config:balancer")
CASES = [(cut, place) for cut in KINDS for place in PLACES]  # in the order in which they follow one another


def is_sample(cut, place):
    return (cut.name, str(place)) == SAMPLE


@pytest.mark.parametrize(
    ("cut", "place"),
    [
        pytest.param(*case, id=f"{case[0].name}: {case[1]}", marks=[pytest.mark.sample] if is_sample(*case) else [])
        for case in CASES
    ],
)
@pytest.mark.usefixtures("put_back")
def test_cut(world, seen, cut, place):
    cut_there(world, place, cut, seen, follow=is_sample(cut, place))
