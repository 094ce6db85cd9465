"""Decoding in pieces from a cache equals one pass, and padding equals its absence."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import (
    EVERYTHING,
    LONG,
    MIXTURE,
    PLAIN,
    build,
    config_of,
    draw_ids,
    relative_error,
)
from torch import Tensor

from expertly.config import Layer, Rope
from expertly.model import Cache, Decoder

BOUND = 2e-5

WINDOWED = config_of(
    *(
        Layer(attention=dataclasses.replace(PLAIN, window=window), feed_forward=MIXTURE)
        for window in (3, None, 7)
    )
)
CONFIGS = {"everything": EVERYTHING, "windows": WINDOWED}
each_config = pytest.mark.parametrize("name", CONFIGS)


def in_pieces(model: Decoder, ids_BS: Tensor, sizes: list[int], mask_BS: Tensor | None = None):
    """Logits of all columns, and the cache, after as many calls as there are sizes."""
    cache = Cache(model.config, batch_size=ids_BS.shape[0])
    found = []
    start = 0
    for size in sizes:
        here = slice(start, start + size)
        mask = None if mask_BS is None else mask_BS[:, here]
        with torch.no_grad():
            found.append(model(ids_BS[:, here], mask, cache=cache).logits)
        start += size
    return torch.cat(found, dim=1), cache


def at_once(model: Decoder, ids_BS: Tensor, mask_BS: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return model(ids_BS, mask_BS).logits


sizes_of_24 = st.lists(st.integers(1, 9), min_size=1, max_size=24).map(
    lambda sizes: [
        size
        for i, size in enumerate([*sizes, 24 - sum(sizes)])
        if size > 0 and sum(sizes[:i]) + size <= 24
    ]
)


@pytest.fixture(scope="module")
def models() -> dict[str, Decoder]:
    return {name: build(config) for name, config in CONFIGS.items()}


@each_config
@given(sizes=sizes_of_24)
@settings(max_examples=25)
def test_any_split_into_pieces_equals_one_pass(models, name, sizes) -> None:
    model = models[name]
    ids_BS = draw_ids(model.config, 2, sum(sizes))
    found, cache = in_pieces(model, ids_BS, sizes)
    assert cache.length == sum(sizes)
    assert relative_error(found, at_once(model, ids_BS)) <= BOUND


@each_config
@given(sizes=sizes_of_24, data=st.data())
@settings(max_examples=25)
def test_left_padding_in_pieces_equals_each_sequence_alone(models, name, sizes, data) -> None:
    model = models[name]
    length = sum(sizes)
    ids_BS = draw_ids(model.config, 3, length)
    padding = [0, *(data.draw(st.integers(0, length - 1)) for _ in range(2))]
    mask_BS = torch.stack([torch.arange(length) >= num for num in padding])
    found, _ = in_pieces(model, ids_BS, sizes, mask_BS)
    assert found.isfinite().all()
    for row, num in enumerate(padding):
        alone = at_once(model, ids_BS[row : row + 1, num:])
        assert relative_error(found[row : row + 1, num:], alone) <= BOUND


@each_config
@given(seed=st.integers(0, 2**31))
@settings(max_examples=25)
def test_padding_anywhere_equals_the_sequence_without_it(models, name, seed) -> None:
    model = models[name]
    ids_BS = draw_ids(model.config, 3, 14, seed=seed)
    mask_BS = torch.rand(3, 14, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask_BS[:, 5] = True
    found = at_once(model, ids_BS, mask_BS)
    for row, mask_S in enumerate(mask_BS):
        alone = at_once(model, ids_BS[row, mask_S][None])
        assert relative_error(found[row, mask_S], alone[0]) <= BOUND


@each_config
def test_a_mask_of_ones_changes_nothing(models, name) -> None:
    model = models[name]
    ids_BS = draw_ids(model.config, 2, 9)
    with_mask = at_once(model, ids_BS, torch.ones(2, 9, dtype=torch.bool))
    assert torch.equal(with_mask, at_once(model, ids_BS))


@each_config
def test_the_ids_under_padding_do_not_matter(models, name) -> None:
    model = models[name]
    ids_BS = draw_ids(model.config, 2, 9)
    mask_BS = torch.arange(9).expand(2, -1) >= torch.tensor([[3], [0]])
    changed = torch.where(mask_BS, ids_BS, (ids_BS + 7) % model.config.vocab_size)
    assert not torch.equal(changed, ids_BS)
    found = at_once(model, changed, mask_BS)
    exact = at_once(model, ids_BS, mask_BS)
    assert relative_error(found[mask_BS], exact[mask_BS]) <= BOUND


@pytest.mark.parametrize(
    "sizes",
    [[63, 1, 1, 1], [64, 1, 1], [65, 1], [60, 10], [1] * 67, [40, 90, 1, 1, 1, 5]],
    ids=str,
)
def test_buffers_grow_past_their_first_64_columns(models, sizes) -> None:
    model = models["everything"]
    ids_BS = draw_ids(model.config, 2, sum(sizes))
    found, cache = in_pieces(model, ids_BS, sizes)
    assert cache.length == sum(sizes)
    assert relative_error(found, at_once(model, ids_BS)) <= BOUND


def test_a_cache_keeps_which_columns_are_tokens(models) -> None:
    model = models["windows"]
    mask_BS = torch.tensor([[False, True, True], [True, True, True]])
    _, cache = in_pieces(model, draw_ids(model.config, 2, 3), [2, 1], mask_BS)
    assert torch.equal(cache.mask_BN, mask_BS)
    with torch.no_grad():
        model(draw_ids(model.config, 2, 2), cache=cache)
    assert torch.equal(cache.mask_BN, torch.cat((mask_BS, torch.ones(2, 2).bool()), dim=1))


def test_two_caches_share_nothing(models) -> None:
    model = models["everything"]
    ids_BS = draw_ids(model.config, 2, 8)
    caches = [Cache(model.config), Cache(model.config)]
    with torch.no_grad():
        for column in range(8):
            for row, cache in enumerate(caches):
                last = model(ids_BS[row : row + 1, column : column + 1], cache=cache).logits[:, -1]
                if column == 7:
                    exact = at_once(model, ids_BS[row : row + 1])[:, -1]
                    assert relative_error(last, exact) <= BOUND


def test_an_answer_does_not_depend_on_the_neighbours_in_the_batch(models) -> None:
    model = models["everything"]
    ids_BS = draw_ids(model.config, 4, 11)
    together = at_once(model, ids_BS)
    for row in range(4):
        assert relative_error(together[row : row + 1], at_once(model, ids_BS[row, None])) <= BOUND


# LongRoPE turns to other frequencies past its original context. Deeper layers have by then read
# answers that were made with the first ones, so only one layer can equal one pass.
CROSSING = config_of(
    Layer(
        attention=dataclasses.replace(
            PLAIN, rope=Rope(base=500.0, scaling=dataclasses.replace(LONG, original_context=10))
        ),
        feed_forward=MIXTURE,
    )
)


@pytest.mark.parametrize("sizes", [[10, 1], [4, 6, 1, 1, 1], [9, 5], [12, 2], [1] * 13], ids=str)
def test_cached_keys_turn_when_a_sequence_grows_past_longropes_first_context(sizes) -> None:
    model = build(CROSSING)
    ids_BS = draw_ids(CROSSING, 2, sum(sizes))
    found, _ = in_pieces(model, ids_BS, sizes)
    assert relative_error(found[:, -1], at_once(model, ids_BS)[:, -1]) <= BOUND


def test_only_the_sequence_that_crosses_turns_its_keys() -> None:
    model = build(CROSSING)
    ids_BS = draw_ids(CROSSING, 3, 13)
    mask_BS = torch.arange(13).expand(3, -1) >= torch.tensor([[0], [2], [8]])
    found, _ = in_pieces(model, ids_BS, [9, 1, 1, 1, 1], mask_BS)
    for row, num in enumerate([0, 2, 8]):
        alone = at_once(model, ids_BS[row, None, num:])
        assert relative_error(found[row, -1], alone[0, -1]) <= BOUND


def test_the_first_frequencies_hold_up_to_the_original_context_exactly() -> None:
    model = build(CROSSING)
    ids_BS = draw_ids(CROSSING, 1, 11)
    ten, eleven = at_once(model, ids_BS[:, :10]), at_once(model, ids_BS)
    only_short = dataclasses.replace(LONG, original_context=10**6)
    other = build(
        config_of(
            Layer(
                attention=dataclasses.replace(PLAIN, rope=Rope(base=500.0, scaling=only_short)),
                feed_forward=MIXTURE,
            )
        )
    )
    assert torch.equal(at_once(other, ids_BS[:, :10]), ten)
    assert relative_error(eleven[:, :10], ten) > 0.01
