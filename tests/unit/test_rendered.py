"""The rendered configuration of whole inventories, file by file, in the folder `rendered/INVENTORY`.

After an intended change run this file with PROVISION_GOLDEN=write, then read the diff.
"""

import os
from itertools import product
from pathlib import Path

import pytest

from provision.plan import role_interface
from provision.steps.nginx.upstream import Upstream
from tests.unit.balancer_fleet import texts
from tests.unit.nginx_config import parse
from tests.unit.test_golden import FLEET, GOLDEN

RENDERED = Path(__file__).parent / "rendered"
WRITTEN = ("models.conf", "site.conf", "upstream.conf")
GATEWAY = (
    *("nginx.conf", "site.conf", "status.conf", "proxying.conf", "upstream.conf"),
    *("gateway_http.conf", "gateway_server.conf", "gateway.json"),
)


def rendered(name: str) -> dict[str, str]:
    """Return the text of each file of the balancer of an inventory."""
    inventory = role_interface.load(str(GOLDEN / f"{name}.yaml"))
    host = inventory.group("balancer")[0]
    step = next(entry.step for entry in role_interface.steps(host, inventory) if entry.step.routes)
    return texts(step, FLEET)


@pytest.mark.parametrize(
    ("name", "file"),
    [*product(["fleet", "two-models", "grey-release"], WRITTEN), *product(["gateway"], GATEWAY)],
)
def test_the_configuration_is_as_it_was(name: str, file: str) -> None:
    text, golden = rendered(name)[file], RENDERED / name / file
    if os.environ.get("PROVISION_GOLDEN") == "write":
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()
    if file.endswith(".conf"):
        parse(text)


@pytest.mark.parametrize("name", ["fleet", "two-models", "grey-release"])
def test_the_upstream_of_the_inventory_survives_parsing(name: str) -> None:
    text = rendered(name)["upstream.conf"]
    found = Upstream.parse(text)
    assert found is not None
    assert found.text == text
