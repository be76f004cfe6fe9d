"""The estimate of `provision fit` beside the sizes of a real server's log, on the CPU with flash attention.

The weights of llama and qwen2 are random. The estimate counts a model's table of tokens apart, because with cards the
table stays in the host's memory; here the server has all of them. Ollama 0.17 gives gemma3 to an engine of its own,
which 0.34 no longer has: the compute buffer of gemma3 is that of llama.cpp in the same program. The recordings in
`tests/real/sizes` hold the estimate in the unit tests. No card is there: the memory of a card is not tried.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.real import sizes
from tests.real.install import packages
from tests.real.install.programs import Programs
from tests.real.install.workshop import Workshop, default_folder
from tests.real.instance import Host, Instance
from tests.real.noted import Noted
from tests.unit import test_capacity_sizes as recorded

WRITE = os.environ.get("PROVISION_GOLDEN") == "write"
SCRIPT = Path(__file__).with_name("random_model") / "write.py"
ABOUT = """\
The sizes of {model} in the log of Ollama {version}, CPU, flash attention; in MiB.
Written by PROVISION_GOLDEN=write .venv/bin/python -m tests.real capacity"""
MODELS = {
    "gemma3": "gemma3 270m Q4_K_M (compute: llama.cpp in the same program)",
    "llama": "a llama with random weights",
    "qwen2": "a qwen2 with random weights",
}
Rows = dict[tuple[str, int, str], Mapping[str, Any]]


@pytest.fixture(scope="module")
def files(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of the three models."""
    folder = tmp_path_factory.mktemp("models")
    python = packages.environment(Workshop(default_folder()), ["gguf"]) / "python"
    made = {name: folder / f"{name}.gguf" for name in ("llama", "qwen2")}
    for name, path in made.items():
        subprocess.run([python, SCRIPT, name, path], check=True, stdin=subprocess.DEVNULL)
    return {"gemma3": programs.weights, **made}


@pytest.fixture(scope="module")
def rows(host: Host, programs: Programs, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The sizes of every model, context and type of the cache; kept as recordings if that is wished."""
    found: Rows = {}
    models: Path | None = None
    for cache in sizes.CACHES:
        server = host.instance(f"cache-{cache}", models, OLLAMA_KV_CACHE_TYPE=cache, OLLAMA_FLASH_ATTENTION="1")
        server.start()
        for name, path in files.items():
            if models is None:
                create(server, name, path)
        models = models or server.folder / "models"
        for name, path in files.items():
            for context in sizes.CONTEXTS:
                found[name, context, cache] = measured(server, programs.ollama.program, name, path, context, cache)
        server.stop()
    if WRITE:
        about = {name: ABOUT.format(model=model, version=programs.ollama.version) for name, model in MODELS.items()}
        for name, path in files.items():
            kept = [row for (model, _, _), row in sorted(found.items()) if model == name]
            sizes.save(name, path, about[name], kept)
    return found


def create(server: Instance, name: str, path: Path) -> None:
    file = server.folder / "Modelfile"
    file.write_text(f'FROM {path}\nTEMPLATE """{{{{ .Prompt }}}}"""\nPARAMETER num_thread 1\n')
    done = server.client("create", name, "-f", str(file))
    assert done.returncode == 0, done.stderr[-2000:]


def measured(server: Instance, program: str, name: str, path: Path, context: int, cache: str) -> Mapping[str, Any]:
    said = sizes.loaded(server, name, context)
    if name == "gemma3":
        said["compute"] = sizes.by_llama(program, path, context, cache, server.folder)["compute"]
    return {"context": context, "cache_type": cache, **said}


@pytest.mark.parametrize("cache", sizes.CACHES)
@pytest.mark.parametrize("context", sizes.CONTEXTS)
@pytest.mark.parametrize("architecture", list(MODELS))
def test_the_estimate_is_within_10_percent(
    architecture: str, context: int, cache: str, rows: Rows, noted: Noted
) -> None:
    row = rows[architecture, context, cache]
    known = sizes.load(architecture)
    assert row in known.rows, f"the server gives other sizes than the recording: {row}"
    terms = recorded.terms(known.dimensions, row)
    for name, guess in terms.items():
        assert guess == pytest.approx(row[name], rel=recorded.LIMIT), name
    noted.evidence = "; ".join(f"{name} {row[name]:.1f} MiB, estimate {guess:.1f}" for name, guess in terms.items())
