"""Models and faults of the registry for the cases of pulls."""

import random
from pathlib import Path

from provision.lab.model_registry import ModelRegistry

MIB = 1 << 20
MODELS: dict[str, tuple[int, dict[str, str]]] = {
    "small": (2 * MIB, {}),
    "other": (MIB, {}),
    "missing": (MIB, {"models-blob": "404"}),
    "five": (MIB, {"models-blob": "500"}),
    "wrong": (MIB, {"models-lie": ""}),
    "plain": (MIB, {"models-plain": ""}),
    "close": (6 * MIB, {"models-close": "300000"}),
    "closeonce": (6 * MIB, {"models-close": "2000000 once"}),
    "stallonce": (6 * MIB, {"models-stall": "1500000 once"}),
    "m500": (MIB, {"models-manifest": "500"}),
    "m401": (MIB, {"models-manifest": "401"}),
    "mhtml": (MIB, {"models-manifest": "html"}),
}
"""By name: the bytes of the weights, which are noise, and the faults with their values."""


def publish(registry: ModelRegistry) -> None:
    """Publish the models in a registry, and switch their faults on."""
    for name, (size, faults) in MODELS.items():
        weights = random.Random(name).randbytes(size)  # noqa: S311 - wanted: the same every time
        config = {"model_format": "gguf", "model_family": "gemma3", "model_families": ["gemma3"], "model_type": "268M"}
        parts: list[tuple[str, bytes | Path]] = [("model", weights), ("license", f"licence of {name}\n".encode())]
        registry.store.publish(f"library/{name}:latest", parts, {**config, "file_type": "Q4_K_M", "note": name})
        for fault, value in faults.items():
            registry.fault(fault, f"library/{name}", value)
