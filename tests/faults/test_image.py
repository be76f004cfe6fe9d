"""The image cannot be pulled: missing, refused, cut short, wrong bytes, no answer."""

import pytest

from tests.faults.case import Case, both, params, play
from tests.faults.common import NEWER, new_image, old_image
from tests.faults.mirror import REGISTRY, corrupt, half, missing

pytestmark = [pytest.mark.lab, pytest.mark.faults]
BLOBS, MANIFESTS = "/blobs/", "/manifests/"
PULL = f"image:{NEWER}"


def tampered(pattern, how):
    return both(new_image, lambda world: world.tamper(REGISTRY, pattern, how))


def mended(world):
    world.true_site()
    old_image(world)


CASES = {
    "a tag that does not exist": Case(
        lambda w: w.set("ollama", image="ollama/ollama:9.99.9"),
        ("a mirror said: manifest unknown",),
        old_image,
        "image:ollama/ollama:9.99.9",
        leaves=(),
    ),
    "the registry is refused": Case(
        both(new_image, lambda w: w.fault("registry-down", target="site")),
        ("refused|connect|no such host",),
        both(lambda w: w.fault("registry-down", "off", target="site"), old_image),
        PULL,
    ),
    "the registry has no manifest any more": Case(
        tampered(MANIFESTS, missing), ("404|not found|unknown",), mended, PULL
    ),
    "a layer is missing": Case(tampered(BLOBS, missing), ("404|not found|unknown",), mended, PULL),
    "a layer is cut short": Case(tampered(BLOBS, half), ("EOF|short|unexpected",), mended, PULL),
    "a layer has another byte": Case(tampered(BLOBS, corrupt), ("digest|verification|corrupt|checksum",), mended, PULL),
    "a manifest has another byte": Case(tampered(MANIFESTS, corrupt), (r"error|digest|invalid",), mended, PULL),
    "the registry is refused while it is pulled": Case(
        lambda w: w.fault("registry-down", target="site"),
        ("refused|connect|reset|no such host",),
        both(lambda w: w.fault("registry-down", "off", target="site"), old_image),
        PULL,
        at=PULL,
        ready=new_image,
    ),
}


@pytest.mark.parametrize("case", params(CASES, "a tag that does not exist"))
def test_image(world, seen, case):
    play(world, case, seen)
