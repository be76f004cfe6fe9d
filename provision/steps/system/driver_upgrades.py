"""Upgrades of the NVIDIA driver behind the operator's back: after an upgrade without a reboot, the driver's library and
its kernel module differ, and no new program reaches a card (docs/facts.md#nvidia-packages).

The driver is not ours, so nothing is set here: verify warns, with the command.
"""

import re
from collections.abc import Iterable
from typing import Any

from provision.steps.base import WARNING, Check

FAMILIES = ("nvidia-", "libnvidia-", "libcuda1", "cuda-drivers", "linux-modules-nvidia-")
"""How the names of the driver's packages begin, in Debian, in Ubuntu and in NVIDIA's own repository."""
NOT_THE_DRIVER = re.compile(r"(lib)?nvidia-(container|docker|ml-dev)|nvidia-cuda-|libnvidia-egl")
FILE = "/etc/apt/apt.conf.d/99-keep-the-nvidia-driver"
_PATTERNS = " ".join(f'"{name}";' for name in FAMILIES)
CURE = f"echo 'Unattended-Upgrade::Package-Blacklist {{{_PATTERNS}}};' | sudo tee {FILE}"
SHOWN = 4  # packages in a sentence

# Packages with their state by dpkg-query(1), whose first letter is `h` for a held package; then apt's settings.
LOOK = rf"""
dpkg-query -W -f='${{db:Status-Abbrev}} ${{Package}}\n' unattended-upgrades \
  {" ".join(f"'{name}*'" for name in FAMILIES)} 2>/dev/null
apt-config dump 2>/dev/null | grep -E '^(APT::Periodic::Unattended-Upgrade|Unattended-Upgrade::Package-Blacklist)'
"""
_PACKAGE = re.compile(r"([a-z])i ? ?([a-z0-9][a-z0-9.+-]{1,100})")
_SETTING = re.compile(r'(APT::Periodic::Unattended-Upgrade|Unattended-Upgrade::Package-Blacklist)(?:::)? "(.{0,200})";')
_PLAIN = re.compile(r"[A-Za-z0-9.^$_-]*([+*][A-Za-z0-9.^$_-]*){0,3}")  # more repetitions may take a match forever


def exposed(lines: Iterable[str]) -> list[str]:
    """Return the installed packages of the driver that unattended-upgrades may upgrade, sorted.

    A package is safe if the package is held, or if a pattern of the blacklist fits: unattended-upgrades compares a
    pattern with the beginning of a name. A pattern with brackets, or with more than three repetitions, is not
    understood here and protects nothing.

    Args:
        lines: output of `LOOK`.
    """
    text = [line.strip() for line in lines]
    packages = {match[2]: match[1] for line in text if (match := _PACKAGE.fullmatch(line))}
    settings = [(match[1], match[2]) for line in text if (match := _SETTING.fullmatch(line))]
    on = any(value not in ("", "0") for name, value in settings if name.startswith("APT::"))
    if not on or "unattended-upgrades" not in packages:
        return []
    patterns = [value for name, value in settings if name.startswith("Unattended") and _PLAIN.fullmatch(value)]
    driver = (name for name in packages if name.startswith(FAMILIES) and not NOT_THE_DRIVER.match(name))
    return sorted(name for name in driver if packages[name] != "h" and not any(_fits(each, name) for each in patterns))


def _fits(pattern: str, name: str) -> bool:
    try:
        return re.match(pattern, name) is not None
    except re.error:
        return False


def warning(lines: Iterable[str]) -> str:
    """Return the warning about the driver's packages, with the command; empty for none.

    Args:
        lines: output of `LOOK`.
    """
    names = exposed(lines)
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"unattended-upgrades may upgrade the NVIDIA driver ({', '.join(names[:SHOWN])}{more}): until the next boot its"
        f" library and its kernel module then differ, and new containers get no card. Type on the host: {CURE}"
    )


def check(live: Any) -> Check | None:
    """Return the warning as a proof that passes; None for none.

    Args:
        live: testinfra's host.
    """
    text = warning(live.run("sh -c %s", LOOK).stdout.splitlines())
    return Check(f"{WARNING}{text}", True, True) if text else None
