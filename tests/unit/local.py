"""Parts that several tests of runs on a local shell share."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from provision.roles import nvidia_toolkit

SETTINGS = {"nvidia_toolkit": nvidia_toolkit.Settings()}
"""The settings that reading a host needs, whatever its steps are."""


def deployed(slots: Iterator[Any]) -> None:
    """Do a host's part of a run to its end, with room for every slot."""
    deque(slots, maxlen=0)
