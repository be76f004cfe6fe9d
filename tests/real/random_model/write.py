"""Writes a small model with random weights: `python write.py ARCHITECTURE FILE`. Needs PyPI's gguf.

The widths are in the ratio of real models of the architecture: four or seven query heads share a head of keys.
"""

import sys

import gguf
import numpy as np

Q8_0 = gguf.GGMLQuantizationType.Q8_0
SHAPES = {
    "llama": {"blocks": 8, "width": 1024, "heads": 16, "kv": 4, "inner": 2816, "tokens": 16384},
    "qwen2": {"blocks": 6, "width": 896, "heads": 14, "kv": 2, "inner": 4864, "tokens": 32768},
}
BYTES = [f"<0x{number:02X}>" for number in range(256)]
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def describe(writer: gguf.GGUFWriter, shape: dict[str, int]) -> None:
    """Write the metadata, with a vocabulary of words that mean nothing."""
    writer.add_block_count(shape["blocks"])
    writer.add_context_length(16384)
    writer.add_embedding_length(shape["width"])
    writer.add_feed_forward_length(shape["inner"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    special = ["<unk>", "<s>", "</s>", *BYTES]
    words = [f"w{number}" for number in range(shape["tokens"] - len(special))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*special, *words])
    writer.add_token_scores([0.0] * shape["tokens"])
    writer.add_token_types([UNKNOWN, CONTROL, CONTROL, *[BYTE] * len(BYTES), *[NORMAL] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def fill(writer: gguf.GGUFWriter, shape: dict[str, int], *, biased: bool) -> None:
    """Write the tensors: matrices of 8 bits, and norms and biases of 32 bits."""
    random = np.random.default_rng(7)
    width, kept = shape["width"], shape["width"] // shape["heads"] * shape["kv"]

    def matrix(name: str, rows: int, columns: int) -> None:
        numbers = (random.standard_normal((rows, columns)) * 0.02).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quants.quantize(numbers, Q8_0), raw_dtype=Q8_0)

    def vector(name: str, length: int) -> None:
        writer.add_tensor(name, np.ones(length, dtype=np.float32))

    matrix("token_embd", shape["tokens"], width)
    vector("output_norm.weight", width)
    matrix("output", shape["tokens"], width)
    for number in range(shape["blocks"]):
        block = f"blk.{number}"
        vector(f"{block}.attn_norm.weight", width)
        vector(f"{block}.ffn_norm.weight", width)
        for name, rows in (("q", width), ("k", kept), ("v", kept)):
            matrix(f"{block}.attn_{name}", rows, width)
            if biased:
                vector(f"{block}.attn_{name}.bias", rows)
        matrix(f"{block}.attn_output", width, width)
        for name, rows, columns in (("gate", "inner", "width"), ("up", "inner", "width"), ("down", "width", "inner")):
            matrix(f"{block}.ffn_{name}", shape[rows], shape[columns])


architecture, path = sys.argv[1:]
writer = gguf.GGUFWriter(path, architecture)
describe(writer, SHAPES[architecture])
fill(writer, SHAPES[architecture], biased=architecture == "qwen2")
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
