"""The NVIDIA driver that an Ollama needs. Source: docs/facts.md#driver-versions."""

import re

from provision.steps import nvidia_smi
from provision.steps.nvidia_smi import Card

OLDER = "ollama/ollama:0.24.0"
"""An image that takes any driver."""


def unusable(image: str, card: Card) -> str:
    """Return why an image would not use a card with the card's driver; empty if it does.

    Args:
        image: reference of the image.
        card: the card.
    """
    needed = driver_needed(image, card.compute_cap)
    if not 0 < nvidia_smi.number(card.driver) < needed:
        return ""
    return (
        f"the driver is {card.driver}, and {image} on GPU {card.index} ({card.name}) needs {needed} or newer: it would "
        f"silently run on the CPU. Upgrade the driver, or use {OLDER}"
    )


def driver_needed(image: str, compute_cap: float) -> int:
    """Return the oldest driver branch with which an Ollama image uses a card. An image without a version counts as new.

    Args:
        image: reference of the image.
        compute_cap: compute capability of the card; 0.0 if unknown.
    """
    match = re.search(r":(\d+)\.(\d+)[^:/@]*(@|$)", image)
    if match and (int(match[1]), int(match[2])) < (0, 30):
        return 0
    return 570 if 0 < compute_cap < 7.0 else 550
