"""The many lines that the llama-server in a real server logs at each load and each request (measured: 215 lines a load,
24 to 81 lines a request). The start of the log is far up after a while, here too.

The knobs `log_lines_per_load` (215) and `log_lines_per_request` (24) set the numbers; 0 writes none.
"""

import sys
from collections.abc import Iterator
from itertools import count, islice

from .ollama_lab import MIB, knob, log
from .ollama_store import Model

_tasks = count()


def load(model: Model, size: int, size_vram: int, context: int) -> None:
    """Log a load.

    Args:
        model: the model.
        size: bytes of the model in memory.
        size_vram: those of them on cards.
        context: tokens per slot.
    """
    _write(_loading(model, size, size_vram, context), int(knob("log_lines_per_load", 215)))
    log("simulated: llama-server started", model=model.name, size=size, vram=size_vram)


def request(slot_tokens: int, answered: int) -> None:
    """Log an answer.

    Args:
        slot_tokens: tokens of the prompt.
        answered: tokens of the answer.
    """
    _write(_answering(next(_tasks), slot_tokens, answered), int(knob("log_lines_per_request", 24)))


def _write(lines: Iterator[str], number: int) -> None:
    """Write this many lines at once; the lines begin anew where the log has more of them than we have texts for."""
    text = "".join(f"simulated: {line}\n" for line in islice(lines, number))
    print(text, end="", file=sys.stderr, flush=True)


def _loading(model: Model, size: int, size_vram: int, context: int) -> Iterator[str]:
    layers = int(model.facts["simulated"]["layers"])
    if size_vram:
        yield f"llama_params_fit_impl: projected to use {size_vram // MIB} MiB of device memory"
        yield f"load_tensors: offloaded {layers + 1 if size_vram == size else layers // 2}/{layers + 1} layers to GPU"
        yield f"load_tensors: CUDA0 model buffer size = {size_vram / MIB:.2f} MiB"
    else:
        yield f"load_tensors: CPU_Mapped model buffer size = {size / MIB:.2f} MiB"
    yield f"llama_context: n_ctx = {context}"
    for number in count():
        yield f"llama_model_loader: - kv {number:3}: simulated.key.{number} u32 = {number}"


def _answering(task: int, asked: int, answered: int) -> Iterator[str]:
    yield f"slot launch_slot_: id  0 | task {task} | processing task"
    yield f"slot update_slots: id  0 | task {task} | new prompt, task.n_tokens = {asked}"
    yield f"slot print_timing: id  0 | task {task} | prompt eval {asked} tokens, eval {answered} tokens"
    yield f"slot      release: id  0 | task {task} | stop processing: n_tokens = {asked + answered}, truncated = 0"
    yield "srv  update_slots: all slots are idle"
    for number in count():
        yield f"slot launch_slot_: id  0 | task {task} | sampler chain, parameter {number} of the sampler = 0.000"
