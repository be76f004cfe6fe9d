"""All checks, in the order of the report."""

from provision.doctor import cards, disks, login, ports, system
from provision.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    *login.CHECKS,
    *system.CHECKS,
    *cards.CHECKS,
    *disks.CHECKS,
    system.MEMORY_CHECK,
    *ports.CHECKS,
)
