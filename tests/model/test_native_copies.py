"""A native decoder whose experts are there twice: a choice says which copy of each is computed."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from expertly.bench.stored import StoredBench
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.packed_loading import load_packed
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.model import NativeDecoder
from expertly.model.native import without_copies
from expertly.model.weights import NativeWeights, is_stack

IDS = torch.tensor([[5, 100, 2000, 17, 333]])
E = 32


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    found = {}
    for bits in (8, 4):
        found[bits] = tmp_path_factory.mktemp("packed") / str(bits)
        with open_folder(bundled()) as source:
            save_packed(source, found[bits], recipe_of_bits(bits))
    return found


def twice(packed: dict[int, Path]) -> NativeDecoder:
    config, weights, _ = load_packed(packed[8])
    for (name, expert), matrix in load_packed(packed[4])[1].matrices.items():
        if expert is not None:
            weights.matrices[name, expert + E] = matrix
    weights.num_copies = 2
    return NativeDecoder(config, weights, threads=1)


def moved(by: int):
    """The router's choice of experts, of other copies."""

    def rechoose(layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE):
        return ids_TK + np.int32(by), np.array(weight_TK)

    return rechoose


def logits_of(model: NativeDecoder) -> torch.Tensor:
    return model(IDS).logits


def mixed(packed: dict[int, Path]) -> NativeDecoder:
    """All but the experts at 8 bits, those at 4."""
    (config, weights, _), lower = load_packed(packed[8]), load_packed(packed[4])[1]
    stacks = {key: m for key, m in lower.matrices.items() if is_stack(key[0])}
    own = NativeWeights({**weights.matrices, **stacks}, weights.vectors)
    return NativeDecoder(config, own, threads=1)


def test_the_first_copy_is_computed_unless_another_is_chosen(packed) -> None:
    model, (config, weights, _) = twice(packed), load_packed(packed[8])
    wanted = logits_of(NativeDecoder(config, weights, threads=1))
    assert torch.equal(logits_of(model), wanted)
    model.rechoose = moved(0)
    assert torch.equal(logits_of(model), wanted)


def test_the_second_copy_is_computed_where_it_is_chosen(packed) -> None:
    model = twice(packed)
    model.rechoose = moved(E)
    assert torch.equal(logits_of(model), logits_of(mixed(packed)))


def test_one_token_may_have_one_copy_and_another_the_other(packed) -> None:
    model, wanted = twice(packed), twice(packed)
    wanted.rechoose = moved(E)

    def only_last(layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE):
        is_last_T1 = (position_T == IDS.shape[1] - 1)[:, None]
        return np.where(is_last_T1, ids_TK + E, ids_TK).astype(np.int32), np.array(weight_TK)

    cache, plain = model.new_cache(), twice(packed)
    model.rechoose = only_last
    found = model(IDS, cache=cache).logits[0]
    assert torch.equal(found[:-1], logits_of(plain)[0, :-1])
    assert not torch.equal(found[-1], logits_of(plain)[0, -1])
    own = plain.new_cache()
    plain(IDS[:, :-1], cache=own)
    plain.rechoose = moved(E)
    assert torch.equal(found[-1], plain(IDS[:, -1:], cache=own).logits[0, 0])


@pytest.mark.parametrize("by", [2 * E, -E - 1])
def test_a_copy_that_is_not_there_is_refused(packed, by) -> None:
    model = twice(packed)
    model.rechoose = moved(by)
    with pytest.raises(ValueError, match="of experts that there are"):
        logits_of(model)


def test_experts_that_are_no_whole_copies_of_a_routers_are_refused(packed) -> None:
    config, weights, _ = load_packed(packed[8])
    first = config.layers[0]
    less = replace(first, feed_forward=replace(first.feed_forward, num_experts=E - 1))
    with pytest.raises(ValueError, match="router and experts differ in number"):
        NativeDecoder(replace(config, layers=(less, *config.layers[1:])), weights, threads=1)


def test_an_id_of_a_copy_is_its_experts_and_an_empty_slot_stays_empty() -> None:
    found = without_copies(np.array([[-1, 0, 3, 4, 7]], np.int32), 4)
    assert found.tolist() == [[-1, 0, 3, 0, 3]] and found.dtype == np.int32


def test_bytes_of_both_copies_are_known_and_a_bench_weighs_them(packed) -> None:
    model = twice(packed)
    once = NativeDecoder(*load_packed(packed[8])[:2], threads=1)
    lower = NativeDecoder(*load_packed(packed[4])[:2], threads=1)
    assert model.expert_bytes == once.expert_bytes == once.lower_bytes
    assert model.lower_bytes == lower.expert_bytes < model.expert_bytes
    assert model.dense_bytes == once.dense_bytes
    visits = [(0, (1, 2)), (1, (3,)), (0, (1, 2)), *[(0, (E + 1, E + 5))] * 50, (3, (E - 1, E))]
    store = SimpleNamespace(tally=SimpleNamespace(visits=visits))
    bench = StoredBench(model, store, None, None, [0], 1)
    part = lower.expert_bytes[0] / model.expert_bytes[0]
    assert bench._touched(1) == [2 + round(100 * part), 1, 0, 1 + round(part)]
