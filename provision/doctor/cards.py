"""The cards of the inventory: does the driver answer, can the image use driver and card, and does somebody else?

Sources: docs/facts.md#nvidia-smi, #driver-versions, #mig. The judgements are those of a plan.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, bad, good, ours, risk
from provision.inventory import Host, Instance, Inventory, shared_settings
from provision.steps import engines, nvidia_smi
from provision.steps.base import RefusalError, State
from provision.steps.docker import inspect
from provision.steps.facts import HostFacts
from provision.steps.instance import conflicts
from provision.steps.nvidia_smi import Card
from provision.steps.system.preflight import UsableCards, complaint, half_switched, in_mig_mode, reset

INSTALL = {
    "debian": "apt-get install linux-headers-amd64 nvidia-driver && reboot",
    "ubuntu": "ubuntu-drivers install --gpgpu && reboot",
}
"""How a distribution installs the driver: Debian's packages nvidia-driver and linux-headers (component non-free), and
Ubuntu's ubuntu-drivers(1)."""
UPGRADE = {
    "debian": ("apt-get install cuda-drivers && reboot", "cuda-drivers is a package of NVIDIA's own repository"),
    "ubuntu": (INSTALL["ubuntu"], ""),
}
"""A newer driver: Debian's own is 535 in Debian 12 and 550 in Debian 13 (docs/facts.md#nvidia-smi)."""
PERSISTENCE = "systemctl enable --now nvidia-persistenced"
CURES = {9: "modprobe nvidia; dmesg | grep -iE 'nvidia|nvrm' | tail", 15: "reboot", 18: "reboot"}
"""Exit code of nvidia-smi -> the command that mends, or shows, the fault. A missing code means a look by hand."""


def _of_gpu_hosts(host: Host, inventory: Inventory) -> Look | None:
    return Look() if host.instances else None


def _driver(state: State, subject: Subject) -> Iterator[Finding]:
    facts = subject.facts
    if not facts.cards:
        yield bad(f"no card: {facts.driver_error or 'nvidia-smi lists no card'}", _mended(facts))
        return
    if facts.driver_error:
        yield risk("nvidia-smi complains, beside the listed cards", _mended(facts), facts.driver_error)
    listed = ", ".join(f"{card.index}: {card.name}, compute capability {card.compute_cap}" for card in facts.cards)
    found = [finding for instance in subject.host.instances for finding in _usable(instance, subject)]
    if not any(finding.verdict == "fail" for finding in found):
        found += _refused_together(subject)
    yield from found
    if not found:
        drivers = ", ".join(sorted({card.driver for card in facts.cards}))
        image = subject.host.serving.image
        yield good(f"driver {drivers} and the cards of the instances fit {image}", listed)


def _mended(facts: HostFacts) -> str:
    error = facts.driver_error
    code = next((code for code, text in nvidia_smi.ERRORS.items() if error.startswith(text)), 0)
    if code == 127:
        return INSTALL.get(facts.distribution, INSTALL["debian"])
    return CURES.get(code, "nvidia-smi; dmesg | grep -iE 'nvidia|nvrm|xid' | tail")


def _usable(instance: Instance, subject: Subject) -> Iterator[Finding]:
    facts = subject.facts
    for index in instance.gpus:
        card = facts.card(index)
        reason = complaint(index, facts)
        if reason:
            yield bad(f"{instance.name} cannot run: {reason}", _reached(index, card, facts))
        elif card and card.mig:
            says = f"{instance.name} names {index} ({card.name}), which {in_mig_mode(card)}"
            yield bad(says, reset(card) if card.half_switched else f"nvidia-smi -i {card.index} -mig 0")
        elif card and (reason := engines.of(instance).unusable(instance.image, card)):
            yield bad(reason, *UPGRADE.get(facts.distribution, UPGRADE["debian"]))
        if card and card.half_switched and not card.mig:
            yield risk(f"{instance.name} names {index} ({card.name}): {half_switched(card)}", reset(card))


def _reached(index: int | str, card: Card | None, facts: HostFacts) -> str:
    """Return the command that makes a broken or missing card usable, or shows why the card is missing."""
    is_part = isinstance(index, str) and index.startswith("MIG-")
    waiting = [each for each in facts.cards if each.half_switched and not each.mig] if is_part else []
    due = card or next(iter(waiting), None)
    return reset(due) if due else "nvidia-smi -L; dmesg | grep -i xid | tail"


def _refused_together(subject: Subject) -> Iterator[Finding]:
    """Yield what a plan refuses although each card alone is fit, such as a card named by index and by UUID."""
    host = subject.host
    gpus = {instance.name: instance.gpus for instance in host.instances}
    try:
        UsableCards(gpus=gpus, image=host.serving.image, unusable=engines.of(host.serving).unusable).want(
            subject.facts, None
        )
    except RefusalError as error:
        yield bad(str(error), ours(subject.inventory, host, "facts"), here=True)


def _persistence(state: State, subject: Subject) -> Iterator[Finding]:
    named = [index for instance in subject.host.instances for index in instance.gpus]
    cards = [card for index in named if (card := subject.facts.card(index))]
    off = [f"GPU {card.index}" for card in cards if card.persistent is False]
    if off:
        says = f"persistence mode is off on {', '.join(off)}: the driver is loaded anew for each first use of a card"
        yield risk(says, PERSISTENCE)
    elif cards:
        unknown = [f"GPU {card.index}" for card in cards if card.persistent is None]
        says = f"persistence mode is unknown of {', '.join(unknown)}" if unknown else "the driver stays loaded"
        yield good(says)


def _users_look(host: Host, inventory: Inventory) -> Look | None:
    if not host.instances:
        return None
    return alone(inspect.command(), lambda answer: _holdings(inspect.read(answer)))


def _holdings(docker: inspect.Docker) -> dict[str, Any]:
    return {"foreign": conflicts.foreign(docker), "applications": conflicts.applications(docker)}


def _users(state: State, subject: Subject) -> Iterator[Finding]:
    state = state or {}
    found = [
        finding
        for instance in subject.host.instances
        for index in instance.gpus
        if (card := subject.facts.card(index))
        for finding in _others(instance, index, card, state, shared_settings.engine(subject.host).tolerate)
    ]
    yield from found
    if found:
        return
    if state["applications"] is None:
        yield risk("nvidia-smi lists no processes, so users of the cards outside Docker are unknown", "nvidia-smi")
    else:
        yield good("nobody else uses the cards of the instances")


def _others(
    instance: Instance, index: object, card: Card, state: Mapping[str, Any], tolerate: Sequence[str]
) -> Iterator[Finding]:
    for name, use in dict(conflicts.holders(card, state)).items():
        if name not in tolerate:
            says = f"card {index} of {instance.name} is {use}"
            evidence = f"or list {name} in {instance.engine}.tolerate"
            yield bad(says, _stop(name, card, state), evidence)


def _stop(name: str, card: Card, state: Mapping[str, Any]) -> str:
    """Return the command that ends a use of a card."""
    processes = [process for process in state["applications"] or () if process["card"] == card.uuid]
    pids = [str(process["pid"]) for process in processes if process["program"] == name and not process["container"]]
    return f"kill {' '.join(pids)}" if pids else f"docker stop -- {shlex.quote(name)}"


CHECKS = (
    Check("driver", _of_gpu_hosts, _driver),
    Check("persistence", _of_gpu_hosts, _persistence),
    Check("card users", _users_look, _users),
)
