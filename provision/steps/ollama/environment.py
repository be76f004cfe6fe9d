"""The variables that an Ollama server reads, and what to use in place of others.

Sources: envconfig/config.go of Ollama, docs/facts.md#ollama-variables; invented names from guides,
docs/facts.md#invented-parameters. The server ignores an unknown variable without a word, so this module refuses unknown
variables.
"""

from collections.abc import Mapping
from typing import Any

from provision.inventory import size_bytes
from provision.inventory.near import did_you_mean

SETTINGS = {
    "OLLAMA_CONTEXT_LENGTH": "context_length",
    "OLLAMA_FLASH_ATTENTION": "flash_attention",
    "OLLAMA_GPU_OVERHEAD": "gpu_overhead",
    "OLLAMA_KEEP_ALIVE": "keep_alive",
    "OLLAMA_KV_CACHE_TYPE": "kv_cache_type",
    "OLLAMA_LOAD_TIMEOUT": "load_timeout",
    "OLLAMA_MAX_LOADED_MODELS": "max_loaded_models",
    "OLLAMA_MAX_QUEUE": "max_queue",
    "OLLAMA_NOPRUNE": "no_prune",
    "OLLAMA_NO_CLOUD": "no_cloud",
    "OLLAMA_NUM_PARALLEL": "num_parallel",
    "OLLAMA_ORIGINS": "origins",
    "OLLAMA_SCHED_SPREAD": "sched_spread",
    "OLLAMA_DEBUG": "debug",
    "HTTPS_PROXY": "https_proxy",
    "NO_PROXY": "no_proxy",
}
"""Variable -> the setting of the role for the variable."""

OTHERS = frozenset(
    {
        "CUDA_DEVICE_ORDER",
        "LLAMA_ARG_FIT",
        "LLAMA_ARG_FIT_TARGET",
        "OLLAMA_AUTH",
        "OLLAMA_GO_TEMPLATE",
        "OLLAMA_IGPU_ENABLE",
        "OLLAMA_LLM_LIBRARY",
        "OLLAMA_MAX_TRANSFER_STREAMS",
        "OLLAMA_NOHISTORY",
        "OLLAMA_REMOTES",
        "OLLAMA_VULKAN",
    }
)
"""Further variables for `ollama.environment`."""

REFUSED = {
    "OLLAMA_HOST": "the container always listens on 11434 inside; set ollama.listen_address and the instance's port",
    "OLLAMA_MODELS": "models are always in /root/.ollama inside; set ollama.storage",
    "CUDA_VISIBLE_DEVICES": "cards are given by the instance's gpus, and by nothing else",
    "NVIDIA_VISIBLE_DEVICES": "cards are given by the instance's gpus, and by nothing else",
    "HTTP_PROXY": "the variable breaks the clients' connections; pulls need ollama.https_proxy only",
    "OLLAMA_DEBUG_LOG_REQUESTS": "the variable makes the server write every prompt to disk",
    "OLLAMA_EDITOR": "the variable is for the interactive client",
    "OLLAMA_NUM_GPU": "there is no such variable; set the option num_gpu in a request",
    "OLLAMA_NUM_GPU_LAYERS": "there is no such variable; set the option num_gpu in a request",
    "OLLAMA_GPU_LAYERS": "there is no such variable; set the option num_gpu in a request",
    "OLLAMA_MAX_BATCH": "there is no such variable; set the option num_batch in a request",
    "OLLAMA_DYNAMIC_BATCHING": "there is no such variable; batching comes with ollama.num_parallel above 1",
    "OLLAMA_LAZY_LOAD": "there is no such variable; loading is always lazy, and the models role preloads",
    "OLLAMA_MODEL": "there is no such variable; set ollama.models",
    "OLLAMA_METRICS": "there is no such variable, and no /metrics",
    "OLLAMA_MAX_VRAM": "Ollama has removed the variable; LLAMA_ARG_FIT_TARGET keeps memory of the cards free",
    "OLLAMA_NEW_ENGINE": "Ollama has removed the variable: there is only one engine",
    "OLLAMA_NEW_ESTIMATES": "Ollama has removed the variable: there is only one engine",
    "OLLAMA_MULTIUSER_CACHE": "Ollama has removed the variable",
    "OLLAMA_RUNNERS_DIR": "Ollama has removed the variable",
    "OLLAMA_TMPDIR": "Ollama has removed the variable",
    "OLLAMA_INTEL_GPU": "Ollama has removed the variable",
}
"""Variable -> why refused, and what to use instead."""


def complaint(name: str) -> str:
    """Return why a variable may not be in `ollama.environment`, or an empty text.

    Args:
        name: as the operator wrote it.
    """
    if name in OTHERS:
        return ""
    if name in SETTINGS:
        return f"has a setting of its own: ollama.{SETTINGS[name]}"
    if name in REFUSED:
        return REFUSED[name]
    return f"Ollama reads no such variable{did_you_mean(name, [*OTHERS, *SETTINGS])}"


def from_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of some settings; a setting of None is left to the server.

    Args:
        settings: setting -> value.
    """
    values = {variable: settings.get(setting) for variable, setting in SETTINGS.items()}
    return {variable: _text(variable, value) for variable, value in values.items() if value not in (None, ())}


def _text(variable: str, value: Any) -> str:
    if variable == "OLLAMA_GPU_OVERHEAD":
        return str(size_bytes(value))
    if isinstance(value, tuple):
        return ",".join(value)
    return str(int(value)) if isinstance(value, bool) else str(value)
