"""An instance never becomes healthy, is killed for its memory, loses its card, or is slow."""

import json

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import container_back, one_container
from tests.faults.world import BAD

pytestmark = [pytest.mark.lab, pytest.mark.faults]
ONE = f"{BAD}/ollama1"
KNOBS = "/etc/provision-lab/knobs.json"


def ill(fault):
    """A fault of an instance that is made anew."""
    return both(one_container, lambda world: world.fault(fault, target=ONE))


def well(fault):
    return both(lambda world: world.fault(fault, "off", target=ONE), container_back)


def knobs(**values):
    return lambda world: world.write(KNOBS, json.dumps(values))


def no_knobs(world):
    world.sh(f"rm -f {KNOBS}")


CASES = {
    "answers 503 to everything": Case(
        ill("answer-503"),
        ("ollama1",),
        well("answer-503"),
        r"\S+",
        keep=False,
        stops=True,
    ),
    "takes requests and never answers": Case(
        ill("hang"),
        ("ollama1",),
        well("hang"),
        r"\S+",
        keep=False,
        stops=True,
        hanging=ONE,
    ),
    "has its model on the CPU": Case(
        ill("cpu"),
        ("ollama1",),
        well("cpu"),
        r"\S+",
        keep=False,
        stops=True,
    ),
    "breaks off its answers": Case(
        ill("stream-fails"),
        ("ollama1",),
        well("stream-fails"),
        r"\S+",
        keep=False,
        stops=True,
    ),
    "is killed for its memory": Case(
        lambda w: w.instance(0).update(memory="16m"),
        ("ollama1",),
        lambda w: w.instance(0).pop("memory"),
        r"\S+",
        keep=False,
        stops=True,
    ),
    "has lost its card": Case(
        lambda w: w.fault("gpu-lost"),
        ("ollama",),
        lambda w: w.fault("gpu-lost", "off"),
        r"\S+",
        keep=False,
        stops=True,
    ),
    "loses its card while it is made": Case(
        lambda w: w.fault("gpu-lost"),
        ("ollama1",),
        both(lambda w: w.fault("gpu-lost", "off"), container_back),
        r"\S+",
        at="container:ollama1",
        ready=one_container,
        keep=False,
        stops=True,
    ),
    "is killed while its model loads": Case(
        lambda w: w.sh("docker kill ollama1 >/dev/null"),
        ("ollama1",),
        container_back,
        r"\S+",
        at="resident:ollama1",
        ready=one_container,
        keep=False,
        stops=True,
    ),
    "answers slowly": Case(
        both(one_container, knobs(tokens_per_second=0.5, load_seconds=15)),
        mend=both(no_knobs, container_back),
        code=0,
        keep=False,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "has its model on the CPU"))
def test_instance(world, seen, case):
    play(world, case, seen)
