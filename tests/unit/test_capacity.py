"""The memory that a model needs: dimensions from metadata, terms of the estimate, the verdict."""

import dataclasses

import pytest

from provision.capacity import cards, catalogue, proposal
from provision.capacity.cards import Card
from provision.capacity.dimensions import Dimensions, MetadataError, Weights, from_metadata
from provision.capacity.estimate import GIB, MIB, Request, cache_of_blocks, compute, estimate, split
from provision.capacity.verdict import Kind, cards_needed, judge, largest_context, placed

QWEN = {
    "general.architecture": "qwen2",
    "general.parameter_count": 32_763_876_352,
    "qwen2.block_count": 64,
    "qwen2.context_length": 131072,
    "qwen2.embedding_length": 5120,
    "qwen2.feed_forward_length": 27648,
    "qwen2.attention.head_count": 40,
    "qwen2.attention.head_count_kv": 8,
    "tokenizer.ggml.tokens": 152064,
}
GEMMA = {
    "general.architecture": "gemma3",
    "gemma3.block_count": 34,
    "gemma3.context_length": 131072,
    "gemma3.embedding_length": 2560,
    "gemma3.feed_forward_length": 10240,
    "gemma3.attention.head_count": 8,
    "gemma3.attention.head_count_kv": 4,
    "gemma3.attention.key_length": 256,
    "gemma3.attention.value_length": 256,
    "gemma3.attention.sliding_window": 1024,
    "tokenizer.ggml.tokens": ["a"] * 100,
}
DEEPSEEK = {
    "general.architecture": "deepseek2",
    "deepseek2.block_count": 61,
    "deepseek2.context_length": 163840,
    "deepseek2.embedding_length": 7168,
    "deepseek2.feed_forward_length": 18432,
    "deepseek2.attention.head_count": 128,
    "deepseek2.attention.head_count_kv": 1,
    "deepseek2.attention.key_length": 576,
    "deepseek2.attention.value_length": 512,
    "deepseek2.attention.key_length_mla": 192,
    "deepseek2.attention.value_length_mla": 128,
    "deepseek2.attention.kv_lora_rank": 512,
    "deepseek2.rope.dimension_count": 64,
    "deepseek2.expert_count": 256,
    "deepseek2.expert_used_count": 8,
    "deepseek2.expert_shared_count": 1,
    "deepseek2.expert_feed_forward_length": 2048,
    "deepseek2.vocab_size": 129280,
}


def card(name: str) -> Card:
    found = cards.named(name)
    assert found is not None
    return found


def model(size: str, quantisation: str = "Q4_K_M") -> Dimensions:
    found = catalogue.dimensions(f"deepseek-r1:{size}", quantisation)
    assert found is not None
    return found


def test_dimensions_of_a_dense_model() -> None:
    found = from_metadata(QWEN, weight_bytes=19_851_337_640, name="deepseek-r1:32b", source="host")
    assert (found.block_count, found.kv_heads[0], found.key_length, found.value_length) == (64, 8, 128, 128)
    assert (found.vocabulary, found.training_context, found.source) == (152064, 131072, "host")
    assert found.weights.on_cards == 19_851_337_640
    assert found.flash_attention
    assert found.quantisable


def test_tensors_have_places() -> None:
    sizes = {"token_embd.weight": 7, "blk.0.attn_q.weight": 11, "blk.63.ffn_up.weight": 13, "output_norm.weight": 1}
    with_output = from_metadata(QWEN, tensors={**sizes, "output.weight": 17, "v.blk.0.attn_q.weight": 19})
    assert with_output.weights == Weights((11, *(0,) * 62, 13), output=18, input=7, projector=19)
    tied = from_metadata(QWEN, tensors=sizes)
    assert tied.weights.output == 1 + 7, "the last layer is a copy of the table of tokens"


def test_five_of_six_blocks_of_gemma3_keep_a_window() -> None:
    found = from_metadata(GEMMA, weight_bytes=3 * GIB)
    assert [number for number, windowed in enumerate(found.windowed) if not windowed] == [5, 11, 17, 23, 29]
    cell = 4 * (256 + 256) * 2
    sizes = cache_of_blocks(found, Request(32768, parallel=2))
    assert sizes[5] == 32768 * 2 * cell
    assert sizes[0] == (1024 + 512) * 2 * cell, "the window and a batch"
    short = cache_of_blocks(found, Request(1000))
    assert set(short) == {1024 * cell}, "a short context is shorter than the window, and rounded up to 256"


def test_a_list_in_the_file_says_which_blocks_keep_a_window() -> None:
    keys = {**GEMMA, "gemma3.attention.sliding_window_pattern": [True, False]}
    assert from_metadata(keys, weight_bytes=1).windowed[:4] == (True, False, True, False)


def test_a_window_without_a_pattern_counts_as_the_whole_context() -> None:
    found = from_metadata({**QWEN, "qwen2.attention.sliding_window": 4096}, weight_bytes=1)
    assert not any(found.windowed)


def test_mla_is_counted_where_the_file_has_its_keys() -> None:
    found = from_metadata(DEEPSEEK, weight_bytes=404 * 10**9)
    assert found.mla
    assert sum(cache_of_blocks(found, Request(4096))) == 61 * (512 + 64) * 2 * 4096
    assert not model("671b").mla, "the library's file has full heads"
    assert sum(cache_of_blocks(model("671b"), Request(4096))) == 61 * 128 * (192 + 128) * 2 * 4096


def test_blocks_without_attention_keep_a_state() -> None:
    keys = {
        **{key.replace("qwen2", "qwen3next"): value for key, value in QWEN.items()},
        "general.architecture": "qwen3next",
        "qwen3next.full_attention_interval": 4,
        "qwen3next.ssm.conv_kernel": 4,
        "qwen3next.ssm.state_size": 128,
        "qwen3next.ssm.inner_size": 4096,
        "qwen3next.ssm.group_count": 16,
    }
    found = from_metadata(keys, weight_bytes=GIB)
    sizes = cache_of_blocks(found, Request(8192, parallel=4))
    assert sizes[0] == (3 * (4096 + 2 * 16 * 128) + 128 * 4096) * 4
    assert sizes[3] == 8192 * 8 * (128 + 128) * 2, "this architecture has one slot, whatever was asked"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("qwen2.block_count", 10**9, "is 1000000000, and not between 1 and"),
        ("qwen2.block_count", -1, "is -1"),
        ("qwen2.block_count", "64", "no whole number: '64'"),
        ("qwen2.block_count", True, "no whole number"),
        ("qwen2.block_count", None, "have no qwen2.block_count"),
        ("qwen2.embedding_length", 1.5, "no whole number"),
        ("qwen2.attention.head_count_kv", [8], "has 1 entries for 64 blocks"),
        ("qwen2.attention.head_count_kv", [2**40] * 64, "and not between"),
        ("general.architecture", "x" * 65, "no usable general.architecture"),
        ("general.architecture", None, "no usable general.architecture"),
        ("tokenizer.ggml.tokens", 2**60, "and not between"),
    ],
)
def test_hostile_metadata_are_refused_with_their_key(key: str, value: object, problem: str) -> None:
    with pytest.raises(MetadataError, match=problem):
        from_metadata({**QWEN, key: value}, weight_bytes=1)


def test_hostile_tensors_are_refused() -> None:
    with pytest.raises(MetadataError, match="bytes of tensor"):
        from_metadata(QWEN, tensors={"output.weight": -1})
    with pytest.raises(MetadataError, match="0 tensors"):
        from_metadata(QWEN, tensors={})
    with pytest.raises(MetadataError, match="bytes of the weights"):
        from_metadata(QWEN)


def test_the_terms_of_32b_on_one_card() -> None:
    need = estimate(model("32b"), Request(8192))
    assert need.kv_cache == 2 * GIB
    assert need.compute == 4 * 512 * (5120 + 152064)
    assert (need.cuda_context, need.margin) == (457 * MIB, 1024 * MIB)
    table = 5120 * 152064 * 144 // 256
    assert need.weights == 19_851_337_640 - table, "the table of tokens stays in the host's memory"
    assert need.total == need.weights + need.kv_cache + need.compute + need.cuda_context + need.margin


def test_the_cache_of_a_smaller_type() -> None:
    sizes = [sum(cache_of_blocks(model("32b"), Request(8192, 2, kind))) for kind in ("f16", "q8_0", "q4_0")]
    assert sizes == [4 * GIB, 4 * GIB * 34 // 64, 4 * GIB * 18 // 64]


def test_without_flash_attention_compute_grows_with_heads_and_context() -> None:
    plain = dataclasses.replace(model("32b"), value_length=64)
    assert not plain.quantisable
    assert compute(plain, Request(32768)) > 4 * 512 * 40 * 32768 > compute(model("32b"), Request(32768))


def test_a_context_beyond_the_training_context_is_cut() -> None:
    assert estimate(model("32b"), Request(10**6)) == estimate(model("32b"), Request(131072))


@pytest.mark.parametrize("wrong", [{"context": 0}, {"context": 1, "parallel": 0}, {"context": 1, "cache_type": "f32"}])
def test_a_request_that_no_server_can_serve(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|no such cache type"):
        Request(**wrong)  # type: ignore[arg-type]


def test_cards_are_found_by_the_names_of_nvidia_smi() -> None:
    names = ["rtx4090", "NVIDIA GeForce RTX 4090", "Tesla T4", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-40GB"]
    found = [cards.named(name) for name in names]
    assert [item.name if item else "" for item in found] == ["RTX 4090", "RTX 4090", "T4", "H100", "A100 40GB"]
    assert cards.named("A100") is None
    assert cards.named("NVIDIA H100 NVL") is None, "it has more memory than an H100"
    assert cards.named("NVIDIA H200 NVL") == cards.named("H200")
    assert card("H200").free == 143158 * MIB, "as recorded"


def test_fits() -> None:
    verdict = judge(model("32b"), Request(8192), [card("RTX 4090")])
    assert (verdict.kind, verdict.proposal, verdict.cards_needed) == (Kind.FITS, Request(8192), 1)
    assert verdict.sentence.startswith("estimate: deepseek-r1:32b (context 8192 x 1, cache f16) needs ")
    assert verdict.shares == (estimate(model("32b"), Request(8192)),)


def test_fits_with_a_shorter_context() -> None:
    verdict = judge(model("32b"), Request(32768), [card("RTX 4090")])
    assert verdict.kind is Kind.CONTEXT
    assert verdict.proposal is not None
    assert verdict.proposal.context % 256 == 0
    assert f"fits with context {verdict.proposal.context}; as asked the model needs 2 x RTX 4090" in verdict.sentence


def test_fits_with_a_quantised_cache() -> None:
    only = Card("small", estimate(model("8b"), Request(8192, 1, "q8_0")).total)
    verdict = judge(model("8b"), Request(8192, parallel=1), [only])
    assert verdict.kind is Kind.CONTEXT, "a shorter context comes first"
    tight = Card("tight", estimate(model("8b"), Request(4096, 1, "q8_0")).total)
    verdict = judge(model("8b"), Request(4096), [tight])
    assert (verdict.kind, verdict.proposal) == (Kind.CACHE, Request(4096, 1, "q8_0"))
    assert "fits with cache q8_0" in verdict.sentence


def test_needs_more_cards() -> None:
    verdict = judge(model("70b"), Request(8192), [card("RTX 4090")])
    assert (verdict.kind, verdict.cards_needed, verdict.proposal) == (Kind.CARDS, 2, None)
    whole = judge(model("70b"), Request(8192), [card("RTX 4090")] * 2)
    assert whole.kind is Kind.FITS
    assert len(whole.shares) == 2
    assert sum(share.weights for share in whole.shares) == model("70b").weights.on_cards
    assert whole.sentence.endswith("fits, spread over 2 cards")


def test_does_not_fit() -> None:
    verdict = judge(model("671b"), Request(8192), [card("RTX 2060")])
    assert (verdict.kind, verdict.cards_needed, verdict.shares) == (Kind.NO, 0, ())
    assert verdict.sentence.endswith("does not fit")


def test_a_type_of_the_cache_that_the_server_refuses() -> None:
    odd = dataclasses.replace(model("7b"), key_length=80, value_length=80)
    verdict = judge(odd, Request(8192, 1, "q8_0"), [card("H200")] * 8)
    assert verdict.kind is Kind.NO
    assert "take f16" in verdict.sentence


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
@pytest.mark.parametrize("family", ["gemma2", "grok"])
def test_a_model_without_flash_attention_gets_the_cache_f16_whatever_was_asked(family: str, kind: str) -> None:
    plain = dataclasses.replace(model("7b"), architecture=family)
    asked, taken = (judge(plain, Request(8192, 1, name), [card("RTX 4090")]) for name in (kind, "f16"))
    assert (asked.kind, asked.need) == (Kind.FITS, taken.need)
    assert f"cache f16 in place of {kind}" in asked.sentence
    longer = judge(plain, Request(262144, 1, kind), [card("RTX 2080")])
    assert "q8_0 " not in longer.sentence.partition(")")[2]


def test_keys_longer_than_values_keep_the_cache_f16() -> None:
    verdict = judge(model("671b"), Request(8192, 1, "q8_0"), [card("H200")] * 8)
    assert verdict.need == judge(model("671b"), Request(8192), [card("H200")] * 8).need


def test_one_of_several_cards_is_enough_for_a_small_model() -> None:
    verdict = judge(model("7b"), Request(8192), [card("RTX 2060"), card("RTX 4090")])
    assert (verdict.kind, len(verdict.shares)) == (Kind.FITS, 1)


def test_memory_of_other_users_is_not_free() -> None:
    own = card("RTX 4090")
    shared = dataclasses.replace(own, used_by_others=own.used_by_others + 8 * GIB)
    assert judge(model("32b"), Request(8192), [shared]).kind is Kind.CARDS


def test_a_proposal_takes_the_models_own_context_and_the_cache_that_the_server_takes() -> None:
    here = [card("RTX 4090")]
    own = dataclasses.replace(model("32b"), own_context=131072)
    assert proposal.propose([model("32b")], proposal.Wish(0, 1), here)
    assert proposal.propose([own], proposal.Wish(0, 1), here) is None
    plain = dataclasses.replace(model("7b"), architecture="gemma2")
    assert proposal.propose([plain], proposal.Wish(8192, 1, "q8_0"), here) == proposal.Choice(8192, 1)


def occupied(name: str, size: int) -> Card:
    own = card(name)
    return dataclasses.replace(own, used_by_others=own.used_by_others + size, foreign=size)


def test_a_card_that_others_fill_does_not_make_the_model_need_many_cards() -> None:
    verdict = judge(model("32b"), Request(8192), [occupied("RTX 4090", 22 * GIB)])
    assert (verdict.kind, verdict.cards_needed, verdict.proposal) == (Kind.NO, 1, None)
    assert verdict.sentence.endswith(
        "other users hold 22.0 GiB of these cards; as asked the model fits these cards without other users"
    )
    verdict = judge(model("70b"), Request(8192), [occupied("RTX 4090", 22 * GIB)])
    assert (verdict.kind, verdict.cards_needed) == (Kind.CARDS, 2)
    assert verdict.sentence.endswith("as asked the model needs 2 x RTX 4090 without other users")
    verdict = judge(model("671b"), Request(8192), [occupied("RTX 2060", GIB)])
    assert verdict.sentence.endswith("other users hold 1.0 GiB of these cards; does not fit")


def test_the_largest_context() -> None:
    here = [card("RTX 4090")]
    context = largest_context(model("32b"), Request(1), here)
    assert placed(model("32b"), Request(context), here)
    assert not placed(model("32b"), Request(context + 256), here)
    assert largest_context(model("70b"), Request(1), here) == 0


def test_each_card_has_a_process_context_and_a_compute_buffer() -> None:
    shares = split(model("32b"), Request(32768), [card("RTX 4090")] * 2)
    assert shares is not None
    assert len({(share.compute, share.cuda_context, share.margin) for share in shares}) == 1
    assert cards_needed(model("32b"), Request(32768), [card("RTX 4090")]) == 2
    with pytest.raises(ValueError, match="at least one card"):
        judge(model("32b"), Request(1), [])


@pytest.mark.parametrize(
    ("size", "parameters"),
    [
        ("1.5b", 1_777_088_000),
        ("7b", 7_615_616_512),
        ("8b", 8_190_735_360),
        ("14b", 14_770_033_664),
        ("32b", 32_763_876_352),
        ("70b", 70_553_706_496),
        ("671b", 671_026_419_200),
    ],
)
def test_the_shapes_of_the_table_have_the_published_number_of_parameters(size: str, parameters: int) -> None:
    assert model(size).parameters == parameters
