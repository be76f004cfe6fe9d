"""All real programs of `make test-real`."""

import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.real.install import nginx, ollama, packages, weights
from tests.real.install.workshop import Workshop, default_folder
from tests.verdicts import Program


@dataclass(frozen=True)
class Programs:
    """The installed programs.

    Attributes:
        ollama: the built Ollama.
        nginx: the program nginx.
        weights: the GGUF file of the small model.
        python: a Python with the clients.
    """

    ollama: ollama.Built
    nginx: Path
    weights: Path
    python: Path

    def version(self, name: str) -> str:
        """The version of a program of the page."""
        return next(program.version for program in self.listed if program.name == name)

    @cached_property
    def listed(self) -> list[Program]:
        """The programs for the page, with the versions that they say themselves."""
        said = subprocess.run([self.nginx, "-v"], capture_output=True, text=True, check=True).stderr
        listed = subprocess.run(
            [self.python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
        ).stdout
        have = dict(line.split("==", 1) for line in listed.splitlines() if "==" in line)
        pins = "PyPI, pinned by hash in tests/real/pins/clients.txt"
        return [
            Program("Ollama", self.ollama.version, self.ollama.words),
            Program("gemma3 270m Q4_K_M", "", weights.WORDS),
            Program("nginx", re.sub(r".*/", "", said.strip()), nginx.WORDS),
            Program("openai-python", have["openai"], pins),
            Program("ollama-python", have["ollama"], pins),
        ]


def installed(shop: Workshop | None = None) -> Programs:
    """Return all programs; what is missing is installed first.

    Args:
        shop: the workshop; by default below the user's cache.

    Raises:
        InstallError: a program cannot be installed; the text names the program, the evidence and the next step.
    """
    shop = shop or Workshop(default_folder())
    built = ollama.installed(shop)
    return Programs(
        built, nginx.installed(shop), weights.installed(shop), packages.environment(shop, ["clients"]) / "python"
    )
