"""The simulator of the lab as a process on loopback, with the three models of the contract.

python -m tests.contract.ollama.simulator FOLDER    prints the port, and serves until the input ends
"""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provision.lab.simulated import ollama_api, ollama_lab, ollama_store
from tests.contract.ollama.cases import FOLDER
from tests.contract.ollama.targets import RECORDED, Address

MODELS = {
    "gemma3:270m": ("llama3.1:8b", ("completion",)),
    "think:latest": ("qwen3:8b", ("completion", "thinking")),
    "embed:latest": ("nomic-embed-text", ("embedding",)),
}
"""The models of the contract: a model of the simulated library with the same weights, and abilities."""
_GEMMA = ollama_store.Catalogued(253113385, "268.10M", "gemma3", 18, 1, 256, 640, 32768)
# As many tokens a second as a small model on a CPU, times fifty: the suite asserts no times.
_KNOBS = {"pull_seconds": 0.1, "load_seconds": 0.02, "tokens_per_second": 2000}
_KNOBS |= {"retry_seconds": 0.01, "stall_seconds": 0.3, "locate_seconds": 0.3}
_ENVIRONMENT = {"OLLAMA_CONTEXT_LENGTH": "2048", "OLLAMA_KEEP_ALIVE": "5m", "OLLAMA_NO_CLOUD": "1"}


@contextmanager
def running(folder: Path, registry: str = "") -> Iterator[Address]:
    """Run the simulator until the block ends.

    Args:
        folder: an empty folder for the models and the log.
        registry: HOST:PORT of a registry of models; empty where no registry runs.

    Raises:
        RuntimeError: the simulator does not start; the text has the end of the log.
    """
    words = [sys.executable, "-m", "tests.contract.ollama.simulator", str(folder)]
    pipe, top = subprocess.PIPE, FOLDER.parents[2]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=top) as process,
    ):
        try:
            port = process.stdout.readline() if process.stdout else ""
            if not port:
                raise RuntimeError(f"the simulator did not start: {(folder / 'log').read_text()[-2000:]}")
            yield Address("127.0.0.1", int(port), RECORDED[0], registry=registry, timeout=120)
        finally:
            process.terminate()


def _serve(folder: Path) -> None:
    (folder / "lab").mkdir()
    (folder / "lab/knobs.json").write_text(json.dumps(_KNOBS))
    ollama_lab.LAB, ollama_lab.CONTAINER, ollama_lab.USAGE = folder / "lab", folder / "container.json", folder / "usage"
    os.environ |= {**_ENVIRONMENT, "OLLAMA_MODELS": str(folder / "models")}
    ollama_store.start()
    for name, (weights, abilities) in MODELS.items():
        _make(name, weights, abilities)
    web = ollama_api.listen("127.0.0.1", 0, f"{RECORDED[0]}.0")
    print(web.server_port, flush=True)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    sys.stdin.read()


def _make(name: str, weights: str, abilities: tuple[str, ...]) -> None:
    """Write a model of the contract, which differs from a model of the simulated library in the configuration alone."""
    published = ollama_store.published(weights)
    assert published is not None
    manifest, blobs = published
    config = json.loads(blobs.pop(manifest["config"]["digest"])) | {"model_type": _GEMMA.parameters}
    config |= {"model_family": _GEMMA.family, "model_families": [_GEMMA.family]}
    config["simulated"] = {**vars(_GEMMA), "capabilities": list(abilities)}
    data = json.dumps(config).encode()
    manifest["config"] |= {"digest": f"sha256:{hashlib.sha256(data).hexdigest()}", "size": len(data)}
    for digest, body in [*blobs.items(), (manifest["config"]["digest"], data)]:
        ollama_store.blob_path(digest).write_bytes(body)
    path = ollama_store.manifest_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
