"""The small real models: gemma3 270m, and variants that think or only embed.

Each is created by a Modelfile, as a person does. One thread a model: two servers share the machine.
"""

from pathlib import Path

from tests.real import gguf
from tests.real.instance import Instance

CHAT, THINKING, EMBEDDING = "gemma3:270m", "think:latest", "embeds:latest"
REFUSED = "embed:latest"
"""The embedding model of the recordings. Ollama 0.17 cannot load the model, as the recording of 0.17 says: embedding
models of this kind have two more layers. The layers of `EMBEDDING` change nothing."""
BRIEF = "brief:latest"
"""The chat model with answers of 16 tokens: the program ollama cannot limit an answer."""
POOLING = "gemma3.pooling_type"
_PLAIN = "{{ .Prompt }}"
_THINKS = """{{- range .Messages }}<start_of_turn>{{ .Role }}
{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ .Content }}<end_of_turn>
{{ end }}<start_of_turn>model
{{ if .Think }}<think>{{ end }}"""


def create(instance: Instance, weights: Path, *, recorded_only: bool = False) -> None:
    """Create the models on a running server.

    Args:
        instance: the server.
        weights: the GGUF file of gemma3 270m.
        recorded_only: whether to leave out models without a recording.

    Raises:
        AssertionError: the server refuses a model.
    """
    refused, embedding = instance.folder / "refused.gguf", instance.folder / "embedding.gguf"
    gguf.with_number(weights, refused, POOLING, 1)
    gguf.with_number(weights, embedding, POOLING, 1, ["dense.0.weight", "dense.1.weight"], side=640)
    made = [(CHAT, weights, _PLAIN), (THINKING, weights, _THINKS), (REFUSED, refused, _PLAIN)]
    further = [] if recorded_only else [(EMBEDDING, embedding, _PLAIN), (BRIEF, weights, _PLAIN)]
    for name, source, template in [*made, *further]:
        file = instance.folder / "Modelfile"
        limit = "PARAMETER num_predict 16\n" if name == BRIEF else ""
        file.write_text(f'FROM {source}\nTEMPLATE """{template}"""\nPARAMETER num_thread 1\n{limit}')
        done = instance.client("create", name, "-f", str(file))
        assert done.returncode == 0, f"ollama create {name}: {done.stderr[-2000:]}"
    embedding.unlink()
    refused.unlink()
