"""Upgrades of the driver behind the operator's back."""

from collections.abc import Iterator

from provision.command import Answer, Script, look
from provision.doctor.check import Check, Look, Subject, alone
from provision.doctor.finding import Finding, good, risk
from provision.inventory import Host, Inventory
from provision.steps.base import State
from provision.steps.system import driver_upgrades

LOOK = look(Script("doctor/driver-upgrades", driver_upgrades.LOOK), title="look at the driver's packages")


def _of_gpu_hosts(host: Host, inventory: Inventory) -> Look | None:
    return alone(LOOK, _state) if host.instances else None


def _state(answer: Answer) -> State:
    return {"exposed": driver_upgrades.exposed(answer.text.splitlines())}


def _judge(state: State, subject: Subject) -> Iterator[Finding]:
    exposed = (state or {})["exposed"]
    if exposed:
        says = "unattended-upgrades may upgrade the NVIDIA driver: until the next boot new containers then get no card"
        yield risk(says, driver_upgrades.CURE, ", ".join(exposed))
    else:
        yield good("no unattended upgrade of the driver")


CHECKS = (Check("driver upgrades", _of_gpu_hosts, _judge),)
