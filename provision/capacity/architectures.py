"""What llama.cpp knows of an architecture, beside the keys of a file: which blocks keep a sliding window.

Source: llama.cpp `src/llama-model.cpp` (`set_swa_pattern`, `n_swa`); docs/facts.md#memory-of-a-model.
"""

from __future__ import annotations

from collections.abc import Sequence

PATTERN = "attention.sliding_window_pattern"

_EVERY = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone4": 4,
    "gemma-embedding": 6,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "gptoss": 2,
    "llama4": 4,
    "olmo2": 4,
}
"""Architecture -> n: every n-th block sees the whole context, the others a window."""
_DENSE_FIRST = {"smallthinker": 4}
"""As above, but the first block of each n sees the whole context."""
_WINDOW = {"gemma2": 4096, "llama4": 8192, "smallthinker": 4096}
"""The window where llama.cpp sets one itself."""
_FIXED = ("llama4", "smallthinker")
"""Their window is fixed, whatever the file says."""

CACHED_BLOCKS = {"gemma3n": 20}
"""Architecture -> number of first blocks with a cache of their own (`n_layer_kv_from_start`)."""
WITHOUT_FLASH_ATTENTION = frozenset({"gemma2", "grok"})
"""Source: ollama 0.33 `fs/ggml/ggml.go` `SupportsFlashAttention`."""
ONE_SLOT = frozenset(
    {
        *("lfm2", "lfm2moe", "mllama", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni", "qwen35", "qwen35moe"),
        *("qwen3next", "qwen3vl", "qwen3vlmoe"),
    }
)
"""The server gives these one slot, whatever was asked. Source: ollama 0.33 `server/sched.go` `load`."""


def windowed(architecture: str, blocks: int, size: int, pattern: object) -> tuple[bool, ...]:
    """Return for each block whether the block keeps a sliding window only.

    Args:
        architecture: of the model.
        blocks: number of blocks.
        size: tokens of the window by the file; 0 if the file has none.
        pattern: the file's own pattern: n, or a list of truth values; None if the file has none.
    """
    every = _DENSE_FIRST.get(architecture) or _EVERY.get(architecture)
    if not window(architecture, size) or (every is None and not _usable(pattern)):
        return (False,) * blocks
    if isinstance(pattern, Sequence) and _usable(pattern):
        return tuple(bool(pattern[number % len(pattern)]) for number in range(blocks))
    if isinstance(pattern, int) and _usable(pattern):
        every = pattern
    assert every is not None  # noqa: S101 - narrows the type
    full = 0 if architecture in _DENSE_FIRST else every - 1
    return tuple(number % every != full for number in range(blocks))


def window(architecture: str, size: int) -> int:
    """Return the window in tokens that the server uses; 0 for none.

    Args:
        architecture: of the model.
        size: tokens of the window by the file; 0 if the file has none.
    """
    own = _WINDOW.get(architecture, 0)
    return own if architecture in _FIXED or not size else size


def _usable(pattern: object) -> bool:
    """Whether a file's pattern is a number of blocks or a list of truth values."""
    if isinstance(pattern, Sequence) and not isinstance(pattern, str | bytes):
        return bool(pattern) and all(isinstance(item, bool) for item in pattern)
    return isinstance(pattern, int) and not isinstance(pattern, bool) and 1 < pattern <= 4096
