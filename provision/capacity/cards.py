"""Cards by name, and the memory of each that a model can have.

Source: memory.total of nvidia-smi; docs/facts.md#memory-of-cards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

MIB = 1 << 20
RESERVED = 480
"""MiB that the driver keeps of a card: the most that was seen of cards with up to 24 GiB."""
_RESERVED = {"RTX 5090": 515, "A100 40GB": 635, "A100 80GB": 870, "L40S": 613, "H100": 478, "H200": 613}
"""Larger cards -> MiB, the most that was seen."""


@dataclass(frozen=True)
class Card:
    """A card with its memory.

    Args:
        name: for people, such as `RTX 4090`.
        memory_bytes: all memory.
        used_by_others: the memory of the driver and of other programs, in bytes.
        foreign: the part of `used_by_others` that is in programs.
        beside: the part of `used_by_others` for further models of the same instance.
    """

    name: str
    memory_bytes: int
    used_by_others: int = 0
    foreign: int = 0
    beside: int = 0

    @property
    def free(self) -> int:
        """Bytes that a model can have."""
        return max(self.memory_bytes - self.used_by_others, 0)

    @property
    def taken(self) -> int:
        """Bytes of foreign programs and of further models."""
        return self.foreign + self.beside

    @property
    def emptied(self) -> Card:
        """The card without foreign programs and further models."""
        return replace(self, used_by_others=self.used_by_others - self.taken, foreign=0, beside=0)


TOTAL = {
    "RTX 5090": 32607,
    "RTX 5080": 16303,
    "RTX 5070 Ti": 16303,
    "RTX 5070": 12227,
    "RTX 5060 Ti 16GB": 16311,
    "RTX 5060 Ti 8GB": 8151,
    "RTX 5060": 8151,
    "RTX 4090": 24564,
    "RTX 4080 SUPER": 16376,
    "RTX 4080": 16376,
    "RTX 4070 Ti SUPER": 16376,
    "RTX 4070 Ti": 12282,
    "RTX 4070 SUPER": 12282,
    "RTX 4070": 12282,
    "RTX 4060 Ti 16GB": 16380,
    "RTX 4060 Ti 8GB": 8188,
    "RTX 4060": 8188,
    "RTX 3090 Ti": 24564,
    "RTX 3090": 24576,
    "RTX 3080 Ti": 12288,
    "RTX 3080 12GB": 12288,
    "RTX 3080 10GB": 10240,
    "RTX 3070 Ti": 8192,
    "RTX 3070": 8192,
    "RTX 3060 Ti": 8192,
    "RTX 3060 12GB": 12288,
    "RTX 3060 8GB": 8192,
    "RTX 2080 Ti": 11264,
    "RTX 2080 SUPER": 8192,
    "RTX 2080": 8192,
    "RTX 2070 SUPER": 8192,
    "RTX 2070": 8192,
    "RTX 2060 SUPER": 8192,
    "RTX 2060": 6144,
    "T4": 15360,
    "A10": 23028,
    "A100 40GB": 40960,
    "A100 80GB": 81920,
    "L40S": 46068,
    "H100": 81559,
    "H200": 143771,
}
"""Name -> memory.total in MiB."""


def named(name: str) -> Card | None:
    """Return a card of the table without other users, or None if the table has no card of this name.

    Args:
        name: such as `RTX 4090`, `rtx4090` or nvidia-smi's `NVIDIA GeForce RTX 4090`.
    """
    known = {_folded(key): key for key in TOTAL}
    key = known.get(_folded(name[:100]))
    if key is None:
        return None
    return Card(key, TOTAL[key] * MIB, _RESERVED.get(key, RESERVED) * MIB)


def _folded(name: str) -> str:
    """Return a name without maker, series, form and memory type, so that the names of nvidia-smi are found."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    kept = [word for word in words if word not in ("nvidia", "geforce", "tesla", "pcie", "sxm4", "sxm5", "hbm3")]
    text = "".join(kept)
    return {"h10080gb": "h100", "h200nvl": "h200"}.get(text, text)  # an H100 NVL has more memory than an H100
