"""Examine hosts before anything is changed: every check with its verdict, its evidence and its cure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from provision.actions.request import Request
from provision.errors import HostError

if TYPE_CHECKING:
    from provision.doctor.examine import Diagnosis
    from provision.inventory import Host, Inventory
    from provision.ssh.transport import Transport

FAILED = 5


@dataclass(frozen=True)
class DoctorResult:
    """The diagnoses of hosts.

    Args:
        inventory: all hosts.
        hosts: of every selected host, in the order of the inventory.
        bugs: host -> our own fault during the work on the host.
        exit_code: 0 if no check failed.
    """

    inventory: Inventory
    hosts: Sequence[Diagnosis]
    bugs: Sequence[tuple[str, HostError]]
    exit_code: int


def doctor(request: Request) -> DoctorResult:
    """Examine every host that a request selects. Takes no lock, and changes nothing. A host without an answer has a
    failed check, and the rest goes on.

    Args:
        request: selects the hosts.

    Raises:
        InventoryError: the inventory cannot be used.
    """
    from provision.actions.asking import ask, setup_of
    from provision.doctor.examine import Diagnosis, examine
    from provision.plan import role_interface

    inventory = role_interface.load(request.inventory, request.overrides)
    clock = setup_of(request).clock

    def work(host: Host, session: Transport) -> Diagnosis:
        return examine(host, inventory, session, clock)

    answers = ask(request, work).hosts
    hosts = [answer for _, answer in answers if isinstance(answer, Diagnosis)]
    bugs = [(host.name, answer) for host, answer in answers if isinstance(answer, HostError)]
    failed = any(host.verdict == "fail" for host in hosts)
    return DoctorResult(inventory, hosts, bugs, 1 if bugs else FAILED if failed else 0)
