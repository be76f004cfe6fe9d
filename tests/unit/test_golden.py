"""Whole inventories, each with the plan on bare hosts, step by step with every command.

A file `.apt` beside an inventory has the sources of apt on the hosts, in the format of `apt_lines.READ`.

After an intended change of plans: PROVISION_GOLDEN=write make unit, then read the diff.
"""

import dataclasses
import os
from pathlib import Path

import pytest

from provision.capacity import catalogue
from provision.command import describe
from provision.plan import role_interface
from provision.plan.planner import make_change
from provision.plan.role_interface import Entry
from provision.steps import apt_lines
from provision.steps.base import BlockedError, RefusalError, converged
from provision.steps.facts import Card, HostFacts
from provision.steps.fleet_state import FleetState
from provision.steps.loading import Known

GOLDEN = Path(__file__).parent / "golden"
ADDRESSES = {"gpu-01": "10.0.0.11", "gpu-02": "10.0.0.12", "box": "10.0.0.11", "lb-01": "10.0.0.5", "lb-02": "10.0.0.6"}
CARDS = tuple(
    Card(index, f"GPU-{index}0000000-0000-4000-8000-00000000000{index}", "NVIDIA L40S", "590.48.01", 8.9, 46068)
    for index in range(2)
)


FLEET = FleetState({name: address for name, address in ADDRESSES.items() if not name.startswith("lb")})


def models(entries: tuple[Entry, ...]) -> dict[str, tuple[Known, ...]]:
    """Return the models of instances that take a proposal of the estimate, by our table; no registry answers."""
    found: dict[str, tuple[Known, ...]] = {}
    for loading in (entry.step.loading for entry in entries):
        if loading is not None and loading.proposes:
            dimensions = catalogue.dimensions(loading.model)
            told = Known(loading.model, dimensions, "" if dimensions else "curl: (6) Could not resolve host")
            found[loading.instance] = (*found.get(loading.instance, ()), told)
    return found


def facts(host: str, apt: Path, entries: tuple[Entry, ...] = ()) -> HostFacts:
    """Return the facts of a bare Debian 13 with two cards."""
    own = ADDRESSES[host]
    others = {address: address for address in ADDRESSES.values()}
    return HostFacts(
        distribution="debian",
        version="13",
        codename="trixie",
        architecture="amd64",
        cgroup=2,
        sources_of_apt=apt_lines.parse(apt.read_text().splitlines() if apt.exists() else ()),
        addresses=("127.0.0.1", own),
        interfaces={own: "eth0"},
        sources=dict.fromkeys(others, own),
        resolved=others,
        cards=() if host.startswith("lb") else CARDS,
        models=models(entries),
    )


def shown(entry: Entry, found: HostFacts) -> list[str]:
    """Return the lines of a step on a bare host."""
    try:
        want = entry.step.want(found, None)
        if converged(None, want):
            return []
        change = make_change(entry, None, want)
    except BlockedError as blocked:
        return [f"  {entry.role} {entry.step.id}: known after {blocked.by}"]
    except RefusalError as refusal:
        return [f"  {entry.role} {entry.step.id} refused: {refusal}"]
    impact = f"  [{change.impact}]" if change.impact else ""
    note = entry.step.note(found)
    impact += f"  = {note}" if note else ""
    commands = (line for command in change.commands for line in describe(command).splitlines())
    return [f"  {entry.role} {entry.step.id}{impact}", *(f"      {line}" for line in commands)]


def plan(path: Path) -> str:
    """Return the plan of every host of an inventory."""
    inventory = role_interface.load(str(path))
    lines = []
    for host in inventory.hosts:
        lines.append(host.name)
        entries = role_interface.steps(host, inventory)
        for entry in entries:
            entry = dataclasses.replace(entry, step=entry.step.in_fleet(FLEET))
            lines += shown(entry, facts(host.name, path.with_suffix(".apt"), entries))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_plan_is_as_it_was(path):
    golden = path.with_suffix(".plan")
    text = plan(path)
    if os.environ.get("PROVISION_GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()
