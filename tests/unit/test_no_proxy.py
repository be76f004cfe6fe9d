"""A host's proxy is for the world outside: no script asks the host's own servers through the proxy."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import provision
import provision.steps
from provision.command import Run
from provision.steps.docker import inspect
from provision.steps.instance.scripts import ready

OUTSIDE = ("source.tar.gz", "the key could not be fetched", "--max-filesize", "--proto '=http,https'")
"""Words beside the downloads from elsewhere, which need the proxy: sources, a key, and manifests of registries."""
_CURL = re.compile(r"\bcurl\s+-")


def scripts() -> Iterator[tuple[str, str]]:
    """Yield the name and the text of every script that calls curl: constants, and scripts for an engine."""
    yield "docker.inspect.command", inspect.command().stdin.decode()
    yield "instance.scripts.ready", ready("/health")
    for module in pkgutil.walk_packages(provision.steps.__path__, "provision.steps."):
        for name, value in vars(importlib.import_module(module.name)).items():
            text = value.stdin.decode() if isinstance(value, Run) else value
            if isinstance(text, str) and name != "__doc__" and _CURL.search(text):
                yield f"{module.name}.{name}", text


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in scripts()])
def test_only_downloads_use_the_proxy(text: str) -> None:
    for found in _CURL.finditer(text):
        call = text[found.start() :]
        outside = any(word in call[:400] for word in OUTSIDE)
        assert text[: found.start()].endswith(("outside ", "outside as ")) == outside, "the proxy of the inventory"
        assert call.startswith(("curl --noproxy '*' ", 'curl --noproxy "*" ')) != outside, call[:120]


def test_python_asks_by_a_proxy_of_the_environment_only_where_the_file_comes_from_outside() -> None:
    root = Path(provision.__file__).parent
    asking = {str(path.relative_to(root)) for path in root.rglob("*.py") if "request.urlopen(" in path.read_text()}
    # the last asks its own container
    assert asking == {"artifacts/model_begin.py", "artifacts/signed.py", "lab/simulated/ollama_cli.py"}


def test_every_module_that_asks_a_server_is_covered() -> None:
    found = {name.removeprefix("provision.steps.").rpartition(".")[0] for name, _ in scripts()}
    assert found >= {
        "docker.inspect",
        "instance.scripts",
        "nginx.balancer_checks",
        "nginx.build_scripts",
        "ollama.loaded_proof",
        "ollama.scripts",
        "ollama.stream_proof",
    }
