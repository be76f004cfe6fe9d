"""All checks, in the order of the report."""

from provision.doctor import (
    apt_sources,
    cards,
    common_address,
    disks,
    docker,
    kernel,
    login,
    native,
    outside,
    ports,
    system,
    upgrades,
)
from provision.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    *login.CHECKS,
    *system.CHECKS,
    *cards.CHECKS,
    *kernel.CHECKS,
    *upgrades.CHECKS,
    *docker.CHECKS,
    *native.CHECKS,
    *disks.CHECKS,
    system.MEMORY_CHECK,
    *ports.CHECKS,
    *common_address.CHECKS,
    *apt_sources.CHECKS,
    *outside.CHECKS,
)
