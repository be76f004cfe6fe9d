"""The connection is cut at every step of a first deploy and of a change: the run reports the cut and ends, nothing
half-done is live, and the next deploy goes on from there.

Cases that follow each other are a class: `make test-faults` gives each class to a lab of its own.
"""

import pytest

from tests.faults import moments
from tests.faults.cuts import CUTS
from tests.faults.walk import AT_WORK, PLACES, cut_there

pytestmark = [pytest.mark.lab, pytest.mark.faults]
SAMPLE = "reset: configuration of a balancer, config:balancer"


def pytest_generate_tests(metafunc):
    if not issubclass(metafunc.cls, Cutting):
        return
    places = [place for place in PLACES if place.story.startswith(metafunc.cls.story)]
    cases = {f"{metafunc.cls.cut}: {place}": place for place in places}
    marks = {SAMPLE: [pytest.mark.sample]}
    params = [pytest.param(place, id=name, marks=marks.get(name, ())) for name, place in cases.items()]
    metafunc.parametrize("place", params)


@pytest.mark.usefixtures("put_back")
class Cutting:
    """Every place of the stories with this beginning."""

    cut = story = ""

    def test_cut(self, world, seen, place):
        cut_there(world, place, CUTS[self.cut], seen)


class TestDroppedInAFirstDeploy(Cutting):
    cut, story = "dropped", "first deploy"


class TestDroppedInAChange(Cutting):
    cut, story = "dropped", "change"


class TestResetInAFirstDeploy(Cutting):
    cut, story = "reset", "first deploy"


class TestResetInAChange(Cutting):
    cut, story = "reset", "change"


class TestSshdKilledInAFirstDeploy(Cutting):
    cut, story = "sshd-killed", "first deploy"


class TestSshdKilledInAChange(Cutting):
    cut, story = "sshd-killed", "change"


class TestPoweredOffInAFirstDeploy(Cutting):
    cut, story = "powered-off", "first deploy"


class TestPoweredOffInAChange(Cutting):
    cut, story = "powered-off", "change"


class TestResetInAConfiguration(Cutting):
    cut, story = "reset", "configuration"


@pytest.mark.usefixtures("put_back")
class TestResetAtWork:
    """While the host is at work on the step."""

    @pytest.mark.parametrize("place", [pytest.param(place, id=f"reset, at work: {place}") for place in AT_WORK])
    def test_cut(self, world, seen, place):
        cut_there(world, place, CUTS["reset"], seen, follow=True, working=True)


class TestOfAnotherCommand:
    """A rollback, a drain and an undrain, while an instance is taken out, out, and given back."""

    @pytest.mark.parametrize("strike", [pytest.param(one, id=str(one)) for one in moments.STRIKES])
    def test_cut(self, world, seen, strike):
        moments.cut_there(world, strike, seen)
