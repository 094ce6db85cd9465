"""A streamed model computes what a resident one does, to the bit, whatever its budget."""

import shutil
from pathlib import Path

import pytest
import torch
from store_models import damage, decoded, pack_bundled, streamed
from torch import Tensor

from expertly import _native
from expertly.checkpoint import load
from expertly.errors import CheckpointError, InputError
from expertly.formats.packed import expert_key, read

NUM_EXPERTS = 4 * 32
IDS = [1 + 37 * i % 4000 for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_bundled(tmp_path_factory.mktemp("bundled") / "packed")


@pytest.fixture(scope="module")
def resident(folder: Path) -> Tensor:
    return decoded(load(folder, "native", threads=1), IDS, prompt=16)


@pytest.mark.parametrize("percent", [25, 50, 75, 100])
def test_logits_are_the_resident_ones_to_the_bit_at_every_budget(folder, resident, percent) -> None:
    model = streamed(folder, NUM_EXPERTS * percent // 100)
    assert torch.equal(decoded(model, IDS, prompt=16), resident)
    tally = model.store.tally
    assert tally.misses > 0 and tally.hits + tally.misses == sum(
        len(experts) for _, experts in tally.visits
    )
    if percent == 100:
        used = {(n, e) for n, experts in tally.visits for e in experts}
        # one that was read ahead for the wrong turn may be used in a later one
        brought = tally.misses + tally.foreseen
        assert brought <= len(used) <= brought + tally.wasted
    model.store.close()


def test_a_single_slot_is_enough_to_be_right(folder, resident) -> None:
    model = streamed(folder, 1, threads=2)
    assert torch.equal(decoded(model, IDS, prompt=16), resident)
    model.store.close()


@pytest.mark.parametrize("kernels", _native.kernel_sets())
def test_every_kernel_set_gives_the_same_bits_in_parts(folder, kernels) -> None:
    whole = load(folder, "native", threads=1, kernels=kernels)
    model = streamed(folder, 9, kernels=kernels)
    wanted, found = (decoded(each, IDS[:20], prompt=7) for each in (whole, model))
    assert torch.equal(found, wanted)
    model.store.close()


def test_a_damaged_expert_is_named_and_the_others_still_come(tmp_path, folder) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    stored = read(copy).blobs[expert_key(2, 5)]
    damage(stored.file, stored.offset + 100)
    model = streamed(copy, 40)
    with pytest.raises(CheckpointError, match="expert 5 of layer 2 is damaged"):
        list(model.store.get(2, [0, 5, 9]))
    assert sorted(e for group in model.store.get(2, [0, 9]) for e in group) == [0, 9]
    model.store.close()


def test_a_budget_below_one_layers_experts_names_the_least_that_works(folder) -> None:
    with pytest.raises(InputError, match="one layer's experts of one token") as caught:
        load(folder, "native", memory="100MB", threads=1)
    least = caught.value.hint.split()[2]
    assert least.endswith("MB") and int(least[:-2]) > 100


def test_a_folder_that_is_not_packed_says_how_to_pack_it() -> None:
    with pytest.raises(InputError, match="cannot be read one by one") as caught:
        load("", "native", memory="8GB")
    assert "expertly pack" in caught.value.hint


def test_a_layers_own_choice_is_what_is_expected_of_it_before_its_experts_are_added(folder) -> None:
    model = load(folder, "native", threads=2)
    seen = []

    def watch(layer, position_T, ids_TK, weight_TK) -> None:
        expected = model._step.expected(model._layers[layer])
        seen.append(expected == ids_TK.flatten().tolist())

    model.watch = watch
    model(torch.tensor([IDS]))
    assert seen == [True] * 4


def test_what_is_expected_of_the_next_layer_is_often_chosen_there(folder) -> None:
    model = streamed(folder, NUM_EXPERTS)
    ahead: dict[int, set[int]] = {}
    hits = []

    def watch(layer, position_T, ids_TK, weight_TK) -> None:
        if layer in ahead:
            hits.append(len(ahead.pop(layer) & set(ids_TK[0].tolist())) / ids_TK.shape[1])
        if layer < 3:
            ahead[layer + 1] = set(model._step.expected(model._layers[layer + 1]))

    model.watch = watch
    decoded(model, IDS, prompt=1)
    # by chance 4 of 32
    assert sum(hits) / len(hits) > 0.4
    model.store.close()
