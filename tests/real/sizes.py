"""The sizes that a real server gives a model, and the recordings of these sizes in `tests/real/sizes`.

A recording has the dimensions of a model, from the header of the model's file, and the sizes of the server's log.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from provision.artifacts import gguf
from provision.capacity.dimensions import Dimensions, from_metadata
from tests.real.instance import Instance, ask, free_port

FOLDER = Path(__file__).with_name("sizes")
MIB = 1 << 20
HEADER = 32 * MIB  # of a file, from its begin: more than any header of a small model
CONTEXTS, CACHES = (2048, 8192), ("f16", "q8_0")
BATCH = 512
_LLAMA = r"^{}: +CPU +{} buffer size = +([\d.]+) MiB$"
_ENGINE = r'level=INFO .*msg="{}" device=CPU size="([\d.]+) MiB"'
_LINES = {
    "weights": (_LLAMA.format("load_tensors", "model"), _ENGINE.format("model weights")),
    "cache": (_LLAMA.format("llama_kv_cache", "KV"), _ENGINE.format("kv cache")),
    "compute": (_LLAMA.format("llama_context", "compute"), _ENGINE.format("compute graph")),
}
_COMMIT = 2
"""The word for "load now" to a runner. Source: ollama 0.17.4 `llm/server.go` `LoadOperationCommit`."""


@dataclass(frozen=True)
class Recording:
    """The recording of a model.

    Attributes:
        architecture: of the model, which is the name of the file.
        dimensions: of the model.
        rows: for each context and type of the cache the sizes in MiB.
    """

    architecture: str
    dimensions: Dimensions
    rows: list[Mapping[str, Any]]


def load(architecture: str) -> Recording:
    """Return a recording."""
    document = yaml.safe_load((FOLDER / f"{architecture}.yaml").read_text())
    dimensions = from_metadata(document["metadata"], tensors=document["tensors"], name=architecture)
    return Recording(architecture, dimensions, document["sizes"])


def save(architecture: str, model: Path, about: str, rows: list[Mapping[str, Any]]) -> None:
    """Write a recording.

    Args:
        architecture: of the model.
        model: the file of the model.
        about: the model and the program, for the first lines.
        rows: see `Recording`.
    """
    metadata, tensors = header(model)
    FOLDER.mkdir(exist_ok=True)
    parts = {"metadata": metadata, "tensors": tensors}
    lines = [f"# {line}" for line in about.splitlines()]
    for name, values in parts.items():
        lines += [f"{name}:", *(f"  {key}: {json.dumps(value)}" for key, value in values.items())]
    lines += ["sizes:", *(f"  - {json.dumps(row).replace(chr(34), '')}" for row in rows)]
    (FOLDER / f"{architecture}.yaml").write_text("\n".join(lines) + "\n")


def header(model: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the metadata that have a number or tell the architecture, and the bytes of each tensor."""
    with model.open("rb") as file:
        found = gguf.parse(file.read(HEADER), model.stat().st_size)
    assert found.whole, f"the header of {model} is longer than {HEADER} bytes"
    numbers = {key: value for key, value in found.metadata.items() if isinstance(value, int)}
    numbers["general.architecture"] = found.metadata["general.architecture"]
    numbers["tokenizer.ggml.tokens"] = found.lengths["tokenizer.ggml.tokens"]
    sizes = {tensor.name: tensor.size for tensor in found.tensors if tensor.size is not None}
    assert len(sizes) == len(found.tensors), "a tensor has a type without a known size"
    return dict(sorted(numbers.items())), sizes


def read(log: str) -> dict[str, float]:
    """Return the sizes of a log in MiB, as far as the log has them.

    Lines of llama.cpp win over those of Ollama, because Ollama 0.17 writes its own estimate where llama.cpp works.

    Args:
        log: the log from one load on.
    """
    found = {}
    for name, patterns in _LINES.items():
        for pattern in patterns:
            if sizes := re.findall(pattern, log, re.MULTILINE):
                found[name] = round(sum(map(float, sizes)), 2)
                break
    return found


def loaded(server: Instance, model: str, context: int) -> dict[str, float]:
    """Load a model, and return the sizes of the server's log.

    Args:
        server: a running server.
        model: name of the model.
        context: tokens.

    Raises:
        AssertionError: the server does not load the model.
    """
    before = len(server.log)
    request = {"model": model, "options": {"num_ctx": context}}
    status, _, text = ask(server.port, "POST", "/api/generate", request, limit=300)
    assert status == 200, text[:300]
    return read(server.log[before:])


def by_llama(program: str, model: Path, context: int, cache: str, folder: Path) -> dict[str, float]:
    """Load a model in the runner llama.cpp of a server's program, and return the sizes of the log.

    Ollama 0.17 gives gemma3 to an engine of its own. Newer releases have llama.cpp for every model of this kind.

    Args:
        program: the program of the server.
        model: the file of the model.
        context: tokens.
        cache: type of the cache.
        folder: a folder for the log.
    """
    with _runner(program, model, folder / "runner.log") as (port, log):
        wish = {"Operation": _COMMIT, "KvSize": context, "BatchSize": BATCH, "Parallel": 1, "KvCacheType": cache}
        ask(port, "POST", "/load", {**wish, "FlashAttention": 1, "NumThreads": 1})
        _wait(lambda: "graph nodes" in log.read_text(errors="replace"), log)
        return read(log.read_text(errors="replace"))


@contextmanager
def _runner(program: str, model: Path, log: Path) -> Iterator[tuple[int, Path]]:
    port = free_port()
    words = [program, "runner", "--model", str(model), "--port", str(port)]
    with log.open("wb") as file, subprocess.Popen(words, stdout=file, stderr=file, stdin=subprocess.DEVNULL) as runner:
        try:
            _wait(lambda: _answers(port), log)
            yield port, log
        finally:
            runner.kill()


def _answers(port: int) -> bool:
    try:
        return ask(port, "GET", "/health")[0] == 200
    except OSError:
        return False


def _wait(done: Any, log: Path) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-1000:]
        time.sleep(0.1)
