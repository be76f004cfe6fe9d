"""The small real models: gemma3 270m, and two variants that only embed and that think.

Each is created by a Modelfile, as a person does. One thread a model: two servers share the machine.
"""

from pathlib import Path

from tests.real import gguf
from tests.real.instance import Instance

CHAT, THINKING, EMBEDDING = "gemma3:270m", "think:latest", "embed:latest"
_PLAIN = "{{ .Prompt }}"
_THINKS = """{{- range .Messages }}<start_of_turn>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}<end_of_turn>
{{ end }}<start_of_turn>model
{{ if .Think }}<think>{{ end }}"""


def create(instance: Instance, weights: Path) -> None:
    """Create the models on a running server.

    Args:
        instance: the server.
        weights: the GGUF file of gemma3 270m.

    Raises:
        AssertionError: the server refuses a model.
    """
    embedding = instance.folder / "embedding.gguf"
    gguf.with_number(weights, embedding, "gemma3.pooling_type", 1)
    for name, source, template in (
        (CHAT, weights, _PLAIN),
        (THINKING, weights, _THINKS),
        (EMBEDDING, embedding, _PLAIN),
    ):
        file = instance.folder / "Modelfile"
        file.write_text(f'FROM {source}\nTEMPLATE """{template}"""\nPARAMETER num_thread 1\n')
        done = instance.client("create", name, "-f", str(file))
        assert done.returncode == 0, f"ollama create {name}: {done.stderr[-2000:]}"
    embedding.unlink()
