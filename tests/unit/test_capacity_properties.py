"""Properties of the estimate and of the verdict, for models and cards of any shape."""

import dataclasses

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from provision.capacity.cards import Card
from provision.capacity.dimensions import Dimensions, MetadataError, Weights, from_metadata
from provision.capacity.estimate import CACHE_TYPES, CONTEXT_STEP, MIB, Estimate, Request, estimate, split
from provision.capacity.proposal import Wish, choices, fits, keeps, propose
from provision.capacity.verdict import (
    MOST_CARDS,
    Kind,
    cards_needed,
    judge,
    largest_context,
    placed,
)

CONTEXTS = st.integers(1, 200_000)
SLOTS = st.integers(1, 64)
TYPES = st.sampled_from(list(CACHE_TYPES))


@st.composite
def models(draw: st.DrawFn) -> Dimensions:
    """A model: dense or with experts, with or without windows, MLA, and blocks without attention."""
    blocks = draw(st.integers(1, 12))
    heads = draw(st.integers(1, 16))
    lengths = st.sampled_from([32, 64, 128, 256])
    key = draw(lengths)
    return Dimensions(
        name="any",
        architecture=draw(st.sampled_from(["qwen2", "gemma3", "deepseek2", "qwen3next", "gemma2"])),
        weights=Weights(
            tuple(draw(st.lists(st.integers(1, 900 * MIB), min_size=blocks, max_size=blocks))),
            draw(st.integers(0, 900 * MIB)),
            draw(st.integers(0, 900 * MIB)),
            draw(st.sampled_from([0, 0, 800 * MIB])),
        ),
        embedding=64 * draw(st.integers(1, 64)),
        heads=heads,
        kv_heads=tuple(draw(st.lists(st.integers(0, heads), min_size=blocks, max_size=blocks))),
        key_length=key,
        value_length=draw(st.sampled_from([key, key, 64])),
        feed_forward=32 * draw(st.integers(1, 512)),
        vocabulary=draw(st.integers(1, 260_000)),
        training_context=draw(st.sampled_from([0, 2048, 40960, 131072])),
        sliding_window=draw(st.sampled_from([0, 512, 4096])),
        windowed=tuple(draw(st.lists(st.booleans(), min_size=blocks, max_size=blocks))),
        cached_blocks=draw(st.integers(1, blocks)),
        kv_rank=draw(st.sampled_from([0, 0, 512])),
        rope_length=64,
        recurrent_state=draw(st.integers(0, 1 << 20)),
        experts_used=draw(st.sampled_from([0, 0, 8])),
    )


@st.composite
def cards(draw: st.DrawFn, most: int = 4) -> list[Card]:
    sizes = draw(st.lists(st.integers(0, 24 * 1024), min_size=1, max_size=most))
    return [Card(f"card {size}", size * MIB, draw(st.integers(0, 2048)) * MIB) for size in sizes]


def least(wish: Estimate) -> int:
    """Return the terms without what gaps of the allocator may add to the compute buffer: a longer context may close a
    gap, on a real server too (docs/facts.md#memory-of-a-model)."""
    return wish.total - wish.compute // 2


@given(models(), CONTEXTS, CONTEXTS, SLOTS, SLOTS, TYPES)
def test_more_context_and_more_slots_never_take_less(
    model: Dimensions, context: int, more: int, slots: int, further: int, kind: str
) -> None:
    small = estimate(model, Request(context, slots, kind))
    for larger in (Request(context + more, slots, kind), Request(context, slots + further, kind)):
        large = estimate(model, larger)
        assert small.kv_cache <= large.kv_cache
        assert small.weights == large.weights
        assert least(small) <= large.total
    assert min(dataclasses.astuple(small)) >= 0


@given(models(), CONTEXTS, SLOTS)
def test_a_smaller_type_of_the_cache_never_takes_more(model: Dimensions, context: int, slots: int) -> None:
    f16, q8, q4 = (estimate(model, Request(context, slots, kind)).total for kind in ("f16", "q8_0", "q4_0"))
    assert f16 >= q8 >= q4


@given(models(), CONTEXTS, SLOTS, TYPES, cards())
def test_the_proposal_fits_and_the_next_longer_context_does_not(
    model: Dimensions, context: int, slots: int, kind: str, here: list[Card]
) -> None:
    verdict = judge(model, Request(context, slots, kind), here)
    assert (verdict.kind in (Kind.FITS, Kind.CONTEXT, Kind.CACHE)) == (verdict.proposal is not None)
    assert bool(verdict.shares) == (verdict.proposal is not None)
    if verdict.proposal is None:
        return
    shares = placed(model, verdict.proposal, here)
    assert shares == verdict.shares
    assert shares
    if verdict.proposal.context != context:
        longer = dataclasses.replace(verdict.proposal, context=verdict.proposal.context + CONTEXT_STEP)
        assert not placed(model, longer, here)


@given(models(), SLOTS, TYPES, cards())
def test_the_largest_context_is_the_largest(model: Dimensions, slots: int, kind: str, here: list[Card]) -> None:
    context = largest_context(model, Request(1, slots, kind), here, most=100_000)
    if context:
        assert placed(model, Request(context, slots, kind), here)
    if context + CONTEXT_STEP <= 100_000:
        assert not placed(model, Request(context + CONTEXT_STEP, slots, kind), here)


@given(models(), CONTEXTS, SLOTS, TYPES, st.integers(512, 24 * 1024))
def test_a_number_of_cards_is_enough_and_a_card_less_is_not(
    model: Dimensions, context: int, slots: int, kind: str, size: int
) -> None:
    card, request = Card("any", size * MIB), Request(context, slots, kind)
    number = cards_needed(model, request, [card])
    assert 0 <= number <= MOST_CARDS
    if number:
        assert placed(model, request, [card] * number)
        assert not any(placed(model, request, [card] * less) for less in range(1, number))
    else:
        assert not placed(model, request, [card] * MOST_CARDS)


@given(models(), CONTEXTS, SLOTS, cards())
def test_the_layers_of_a_spread_model_are_all_there_and_no_card_is_too_small(
    model: Dimensions, context: int, slots: int, here: list[Card]
) -> None:
    request = Request(context, slots)
    whole, shares = estimate(model, request), split(model, request, here)
    assume(shares)
    assert shares is not None
    assert sum(share.weights for share in shares) == whole.weights
    assert sum(share.kv_cache for share in shares) == whole.kv_cache
    assert all(share.total <= card.free for share, card in zip(shares, here, strict=True) if share.weights)


HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 64),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-1, 300), max_size=80),
    st.binary(max_size=4),
)
KEYS = [
    *("block_count", "embedding_length", "context_length", "feed_forward_length", "vocab_size", "expert_used_count"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length"),
    *("attention.sliding_window", "attention.sliding_window_pattern", "attention.shared_kv_layers"),
    *("attention.key_length_mla", "attention.kv_lora_rank", "rope.dimension_count", "full_attention_interval"),
    *("ssm.conv_kernel", "ssm.state_size", "ssm.inner_size", "ssm.group_count", "expert_shared_count", "expert_count"),
    "expert_feed_forward_length",
]


@given(
    st.sampled_from(["llama", "gemma3", "deepseek2", "smallthinker", "gemma3n", "\x00", ""]),
    st.dictionaries(st.sampled_from(KEYS), HOSTILE),
    st.one_of(st.none(), st.dictionaries(st.text(max_size=12), st.integers(-1, 1 << 51), max_size=5)),
)
@settings(max_examples=200)
def test_hostile_metadata_give_a_finite_estimate_or_are_refused(
    architecture: str, values: dict[str, object], tensors: dict[str, int] | None
) -> None:
    keys: dict[str, object] = {f"{architecture}.block_count": 4, f"{architecture}.embedding_length": 64}
    keys.update({f"{architecture}.{key}": value for key, value in values.items()})
    keys["general.architecture"] = architecture
    try:
        model = from_metadata(keys, tensors=tensors, weight_bytes=1 << 30)
    except MetadataError as error:
        said = error.message
    else:
        verdict = judge(model, Request(8192), [Card("any", 24 << 30)])
        said = verdict.sentence
        assert verdict.need.total > 0
    assert len(said) < 400


WISHES = st.builds(
    Wish,
    context=st.sampled_from([0, 0, 4096, 20000]),
    parallel=st.sampled_from([0, 1, 4]),
    cache_type=TYPES,
    at_once=st.integers(1, 3),
)


@st.composite
def shared_cards(draw: st.DrawFn) -> list[Card]:
    """Cards of which other programs have a part."""
    here = draw(cards(most=3))
    used = draw(st.sampled_from([0, 300, 6000])) * MIB
    return [dataclasses.replace(card, used_by_others=card.used_by_others + used, foreign=used) for card in here]


@given(st.lists(models(), min_size=1, max_size=3), WISHES, shared_cards())
def test_the_automatic_numbers_fit_and_are_kept(several: list[Dimensions], wish: Wish, here: list[Card]) -> None:
    found = propose(several, wish, here)
    order = choices(several, wish)
    if found is None:
        assert not fits(several, wish, order[-1], here)
        return
    assert fits(several, wish, found, here)
    assert found in order
    assert found.context == wish.context or found.context <= max(model.training_context or 8192 for model in several)
    assert keeps(several, wish, here, found), "a second plan changes nothing"


@given(st.lists(models(), min_size=1, max_size=2), WISHES, shared_cards(), st.data())
def test_what_an_instance_keeps_has_room_or_nothing_has(
    several: list[Dimensions], wish: Wish, here: list[Card], data: st.DataObject
) -> None:
    order = choices(several, wish)
    current = data.draw(st.sampled_from(order))
    if keeps(several, wish, here, current):
        assert fits(several, wish, current, here) or propose(several, wish, here) is None
        return
    better = propose(several, wish, here)
    assert better not in (None, current)
    assert better is not None
    assert keeps(several, wish, here, better), "one restart is enough"


@given(models(), WISHES, st.integers(4096, 24 * 1024), st.integers(1025, 8192), st.integers(-1024, 1024))
def test_noise_of_other_programs_changes_nothing(
    model: Dimensions, wish: Wish, size: int, used: int, noise: int
) -> None:
    def card(mib: int) -> list[Card]:
        return [Card("any", size * MIB, mib * MIB, mib * MIB)]

    found = propose([model], wish, card(used))
    if found is not None and fits([model], wish, found, card(used + 1024)):
        assert keeps([model], wish, card(used + noise), found)
