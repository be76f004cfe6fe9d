"""An `Instance` carries everything that the rollout and the rest of the roles know of the ollama role."""

import dataclasses
from pathlib import Path

import pytest

from provision.inventory import Inventory, Serving
from provision.plan import role_interface
from provision.roles import ollama
from provision.steps.instance import endpoint

INVENTORY = """
all:
  vars:
    nginx: {accept_known_vulnerabilities: true}
    ollama: {VARS}
  children:
    gpu: {hosts: {gpu-01: {ollama: {instances: [{gpus: [0]}, {gpus: [1], name: big, storage: /srv/big}]}}}}
    retired: {hosts: {old: {}}}
    balancer: {hosts: {lb-01: {}}}
"""
SAID = "image: ollama/ollama:0.1, listen_address: 10.0.0.11, admit: [10.1.0.0/16], drain_timeout: 90s"
SERVING = {
    "engine": "ollama",
    "image": "ollama/ollama:0.1",
    "listen_address": "10.0.0.11",
    "admit": ("10.1.0.0/16",),
    "drain_timeout": 90.0,
    "max_unavailable": "25%",
    "network_pool": "",
    "site": "",
}


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    path = tmp_path / "inventory.yaml"
    path.write_text(INVENTORY.replace("VARS", f"{SAID}, max_unavailable: 25%"))
    return role_interface.load(str(path))


def test_every_instance_carries_the_settings_of_its_host(inventory: Inventory) -> None:
    host = inventory.host("gpu-01")
    assert [(one.name, one.storage) for one in host.instances] == [("ollama1", "volume"), ("big", "/srv/big")]
    for one in (*host.instances, host.serving):
        assert {name: getattr(one, name) for name in SERVING} == SERVING
    assert set(SERVING) == {field.name for field in dataclasses.fields(Serving)}


def test_missing_settings_have_the_defaults_of_the_role() -> None:
    settings = ollama.Settings.model_validate({"instances": [{"gpus": [0]}]})
    (one,) = ollama.instances("h", settings)
    assert (one.engine, one.image, one.storage) == ("ollama", settings.image, "volume")
    assert (one.listen_address, one.admit, one.drain_timeout, one.max_unavailable) == ("", (), 900.0, 1)


@pytest.mark.parametrize("name", ["old", "lb-01"])
def test_a_host_without_instances_keeps_the_settings_for_its_former_instances(inventory: Inventory, name: str) -> None:
    """The containers of a retired host are drained before the removal, for as long as the host's settings say."""
    host = inventory.host(name)
    assert host.instances == ()
    assert vars(host.serving) == SERVING


def test_a_rollback_that_leaves_no_instance_keeps_the_address(inventory: Inventory) -> None:
    host = dataclasses.replace(inventory.host("gpu-01"), instances=())
    alone = Inventory(path="", hosts=(host,))
    assert not endpoint.is_local(host, alone), "10.0.0.11 is declared"
