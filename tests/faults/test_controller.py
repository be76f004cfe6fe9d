"""The controller is killed (SIGKILL) at every step: its lease keeps further runs off until the lease ends, jobs go on,
and the next deploy goes on from there."""

import pytest

from tests.faults.cuts import CUTS
from tests.faults.moments import KILLS, killed_there
from tests.faults.walk import AT_WORK, PLACES, cut_there

pytestmark = [pytest.mark.lab, pytest.mark.faults]
SAMPLE = "change of a gpu host, image:ollama/ollama:0.33.0"


@pytest.mark.parametrize(
    "place", [pytest.param(p, id=str(p), marks=[pytest.mark.sample] if str(p) == SAMPLE else []) for p in PLACES]
)
@pytest.mark.usefixtures("put_back")
def test_killed(world, seen, place):
    cut_there(world, place, CUTS["killed"], seen, follow=str(place) == SAMPLE)


@pytest.mark.usefixtures("put_back")
class TestAtWork:
    """While the host is at work on the step: the host goes on without a listener."""

    @pytest.mark.parametrize("place", [pytest.param(place, id=f"at work: {place}") for place in AT_WORK])
    def test_killed(self, world, seen, place):
        cut_there(world, place, CUTS["killed"], seen, follow=True, working=True)


class TestOfAnotherCommand:
    """A rollback, a drain and an undrain, while an instance is taken out, out, and given back."""

    @pytest.mark.parametrize("moment", [pytest.param(one, id=str(one)) for one in KILLS])
    def test_killed(self, world, seen, moment):
        killed_there(world, moment, seen)
