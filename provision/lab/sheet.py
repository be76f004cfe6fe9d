"""Files that the lab writes for its users: the inventory, known hosts, and the cards of the gpu hosts."""

import hashlib
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from provision.lab import keys, paths, site
from provision.lab.host import Host
from provision.lab.network import Network
from provision.lab.spec import BALANCER, GPU, HostSpec, Spec

_HEADER = "# Written by `provision lab up`; the next `up` writes it again.\n"


def write(home: Path, spec: Spec, network: Network, hosts: Iterable[Host]) -> None:
    """Write inventory.yaml and known_hosts into the lab's directory."""
    hosts = list(hosts)
    lines = [keys.known_host(host.key, [host.address, host.name]) for host in hosts]
    (home / "known_hosts").write_text("".join(lines))
    document = inventory(home, spec, network, hosts)
    (home / "inventory.yaml").write_text(_HEADER + yaml.safe_dump(document, sort_keys=False, width=110))


def inventory(home: Path, spec: Spec, network: Network, hosts: Iterable[Host]) -> dict[str, Any]:
    """The inventory of a lab, as the document of inventory.yaml."""
    hosts = list(hosts)
    groups: dict[str, dict[str, Any]] = {GPU: {}, BALANCER: {}}
    for host in hosts:
        entry: dict[str, Any] = {"ansible_host": host.address}
        if host.spec.group == GPU:
            entry["ollama"] = {"instances": [{"gpus": [index]} for index in range(spec.gpus)]}
        groups[host.spec.group][host.name] = entry
    login: dict[str, Any] = {
        "ansible_user": "ops",
        "ansible_ssh_private_key_file": str(home / "id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={home / 'known_hosts'}",
    }
    children = {name: {"hosts": members} for name, members in groups.items() if members}
    settings = site.settings(network, spec.release, spec.packages)
    patience = max(host.patience for host in hosts)
    if patience > 1:
        login |= {"ansible_timeout": 10 * patience, "timeout_factor": patience}
    return {"all": {"vars": {**login, **settings}, "children": children}}


def card_files(spec: Spec, host: HostSpec) -> dict[str, str]:
    """The files that give a gpu host its simulated driver and cards; no files for a balancer."""
    if host.group != GPU:
        return {}
    cards = [card(spec.name, host.name, index) for index in range(spec.gpus)]
    document = {"driver_version": "590.48.01", "cuda_version": "13.1", "cards": cards}
    return {
        "etc/provision-lab/gpus.json": json.dumps(document, indent=2) + "\n",
        "usr/bin/nvidia-smi": (paths.SIMULATED / "nvidia-smi").read_text(),
    }


def card(lab: str, host: str, index: int) -> dict[str, Any]:
    """One simulated card; its UUID depends on the lab, the host and the index alone."""
    seed = hashlib.sha256(f"{lab}/{host}/{index}".encode()).digest()[:16]
    return {
        "uuid": f"GPU-{uuid.UUID(bytes=seed)}",
        "name": "NVIDIA RTX A6000 (simulated)",
        "pci_bus_id": f"00000000:{index + 1:02X}:00.0",
        "memory_mib": 49140,
        "reserved_mib": 512,
        "compute_cap": "8.6",
        "power_limit_w": 300.0,
    }
