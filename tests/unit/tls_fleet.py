"""An inventory with a balancer that has TLS, in a folder with an authority of its own and with given files."""

from pathlib import Path
from typing import Any

from provision.certificates import authority
from provision.inventory import Inventory
from provision.plan import role_interface
from provision.steps.facts import HostFacts
from provision.steps.nginx.balancer_config import Balancing
from tests.unit.pki import LEAF, NOW, ROOT, Pair, put

FACTS = HostFacts(distribution="debian", version="13")
INVENTORY = """
all:
  vars:
    nginx: {{accept_known_vulnerabilities: true, {nginx}}}
    balancer: {{{balancer}tls: {tls}}}
  children:
    gpu:
      hosts:
        gpu-01: {{ansible_host: 10.0.0.11, ollama: {{instances: [{{gpus: [0]}}]{models}}}}}
{second}    balancer: {{hosts: {{lb-01: {{ansible_host: 10.0.0.5}}}}}}
"""
OWN, GIVEN = (
    "{authority: ca, names: [llm.example]}",
    "{certificate: tls/chain.pem, key: tls/lb.key, trust: tls/root.pem}",
)
SECOND = "        gpu-02: {ansible_host: 10.0.0.12, ollama: {instances: [{gpus: [0]}], models: [gemma3]}}\n"
MENDED = f"version: 1.30.7, sha256: {'0' * 64}"


def loaded(
    folder: Path, tls: str = OWN, nginx: str = "", balancer: str = "", *, two_models: bool = False, **how: Any
) -> Inventory:
    """Return the inventory of a folder, with an authority of its own and with given files."""
    path = folder / "inventory.yaml"
    models, second = (", models: [phi4]", SECOND) if two_models else ("", "")
    text = INVENTORY.format(tls=tls, nginx=nginx, balancer=balancer and f"{balancer}, ", models=models, second=second)
    path.write_text(text)
    if not (folder / "ca").exists():
        authority.make(folder / "ca", "ours", NOW)
        give(folder, LEAF)
    return role_interface.load(str(path), **how)


def give(folder: Path, leaf: Pair) -> None:
    put(folder / "tls" / "chain.pem", leaf.pem)
    put(folder / "tls" / "lb.key", leaf.key_pem)
    put(folder / "tls" / "root.pem", ROOT.pem)


def steps(inventory: Inventory) -> list[Any]:
    return [entry.step for entry in role_interface.steps(inventory.host("lb-01"), inventory)]


def config(inventory: Inventory) -> Balancing:
    (step,) = (step for step in steps(inventory) if isinstance(step, Balancing))
    return step


def texts(step: Balancing, facts: HostFacts = FACTS) -> dict[str, str]:
    want = step.want(facts, None)
    assert want is not None
    return {name: content.data.decode() for name, content in want["files"].items()}
