"""Logits of a model whose experts are partly a device's: the same to the bit if the device computes
as the processor does, whoever computes which expert."""

import random
from pathlib import Path

import pytest
import torch
from device_fakes import NativeDevice, RandomLadder, Troubled, twin
from native_models import native_of
from small_models import EVERYTHING, build, draw_ids, relative_error
from store_models import decoded, pack_bundled
from torch import Tensor

from benchmarks.ladder import DeviceAlone
from expertly.checkpoint import load
from expertly.checkpoint.apart import packed_apart
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.on_device import attach, largest_expert
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_type
from expertly.checkpoint.streamed_loading import num_experts, stream
from expertly.device import Device, DeviceTier, TorchDevice
from expertly.model import NativeDecoder
from expertly.store import ExpectedUse
from expertly.store.ladder import Ladder

IDS = [1 + 37 * i % 4000 for i in range(40)]
PROMPT = 16
# float32 sums in another order; the native cache is float16 on both sides
FLOAT32 = 1e-4
# 8 bits of a bfloat16's share, through the layers of a random model
BFLOAT16 = 0.2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_bundled(tmp_path_factory.mktemp("bundled") / "packed")


@pytest.fixture(scope="module")
def resident(folder: Path) -> Tensor:
    return decoded(load(folder, "native", threads=1), IDS, PROMPT)


@pytest.fixture(scope="module")
def float_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundled") / "bf16"
    with open_folder(bundled()) as source:
        save_packed(source, out, recipe_of_type("bf16"))
    return out


def tiered(model: NativeDecoder, device: Device, ladder: Ladder) -> NativeDecoder:
    """The arena filled, then the ladder's way."""
    model.tier = DeviceTier(device, ladder, model.host_expert)
    model.tier.fill(num_experts(model.config), model.config.hidden_size, model.store)
    return model


def policy_of(model: NativeDecoder) -> ExpectedUse:
    return ExpectedUse(num_experts(model.config))


def shared(model: NativeDecoder) -> float:
    """Of all uses, those that the device computed."""
    assert model.tier is not None
    tally = model.tier.ladder.tally
    return tally.on_device / (tally.on_device + tally.on_host)


@pytest.mark.parametrize("num_slots", [1, 5, 40, 128])
def test_logits_are_the_processors_to_the_bit_whoever_computes_what(
    folder, resident, num_slots
) -> None:
    model = load(folder, "native", threads=2)
    tiered(model, NativeDevice(), RandomLadder(num_slots, policy_of(model), num_slots))
    assert torch.equal(decoded(model, IDS, PROMPT), resident)
    assert shared(model) > (0.3 if num_slots > 1 else 0.05)


@pytest.mark.parametrize("num_slots", [3, 60])
def test_the_real_ladder_gives_the_same_bits(folder, resident, num_slots) -> None:
    model = load(folder, "native", threads=1)
    attach(model, NativeDevice(), num_slots)
    assert torch.equal(decoded(model, IDS, PROMPT), resident)


def test_a_device_that_computes_everything_gives_the_same_bits(folder, resident) -> None:
    model = load(folder, "native", threads=1)
    tiered(model, NativeDevice(), DeviceAlone(20, policy_of(model)))
    assert torch.equal(decoded(model, IDS, PROMPT), resident)
    assert shared(model) == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_trouble_of_every_kind_changes_no_bit(folder, resident, seed) -> None:
    model = load(folder, "native", threads=1)
    device = Troubled(NativeDevice(), random.Random(seed), one_in=6)
    tiered(model, device, RandomLadder(20, policy_of(model), seed))
    assert torch.equal(decoded(model, IDS, PROMPT), resident)
    assert model.tier.ladder.tally.failures > 10
    slots = model.tier.ladder.slots
    assert slots.num_free + len(slots) == 20


@pytest.mark.parametrize(("in_ram", "num_slots"), [(1, 3), (20, 10), (20, 60), (60, 100)])
def test_disk_ram_and_device_are_one_ladder(float_folder, in_ram, num_slots) -> None:
    wanted = decoded(load(float_folder, "native", threads=1), IDS, PROMPT)
    model = stream(packed_apart(float_folder, threads=1), in_ram, threads=1)
    # a slot in RAM holds another expert soon: the device has copies of its own
    tiered(model, NativeDevice(twin), RandomLadder(num_slots, policy_of(model), in_ram))
    assert torch.equal(decoded(model, IDS, PROMPT), wanted)
    assert shared(model) > 0.1
    model.store.close()


def test_what_the_device_holds_is_not_read_from_the_disk(float_folder) -> None:
    def misses(num_slots: int) -> int:
        model = stream(packed_apart(float_folder, 1), 8, threads=1, read_ahead=False)
        if num_slots:
            tiered(model, NativeDevice(twin), DeviceAlone(num_slots, policy_of(model)))
        before = model.store.tally.misses
        decoded(model, IDS, PROMPT)
        model.store.close()
        return model.store.tally.misses - before

    assert misses(128) == 0
    assert misses(64) < misses(0)


def test_every_feature_of_an_expert_is_computed_on_a_device_of_torch() -> None:
    # biases, limits, shifts, shared experts, dense layers between mixtures
    model, ids = native_of(build(EVERYTHING)), draw_ids(EVERYTHING, 2, 9)
    wanted = model(ids).logits
    device = TorchDevice(torch.device("cpu"), 6, largest_expert(model), torch.float32)
    tiered(model, device, DeviceAlone(6, policy_of(model)))
    assert relative_error(model(ids).logits, wanted) < FLOAT32
    assert shared(model) == 1.0
    device.close()


def test_bfloat16_on_the_device_stays_near_the_float32_model() -> None:
    model, ids = native_of(build(EVERYTHING)), draw_ids(EVERYTHING, 2, 9)
    wanted = model(ids).logits
    device = TorchDevice(torch.device("cpu"), 6, largest_expert(model))
    tiered(model, device, DeviceAlone(6, policy_of(model)))
    error = relative_error(model(ids).logits, wanted)
    assert 1e-5 < error < BFLOAT16
    device.close()


def test_the_order_of_those_who_compute_does_not_matter_to_padding_and_batches(folder) -> None:
    ids = torch.tensor([IDS[:12], IDS[12:24]])
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    model = load(folder, "native", threads=1)
    wanted = model(ids, mask).logits
    tiered(model, NativeDevice(), RandomLadder(30, policy_of(model), 3))
    assert torch.equal(model(ids, mask).logits, wanted)


def test_a_choice_put_in_place_of_the_routers_with_slots_left_out_is_kept_to(folder) -> None:
    def rechoose(layer, sequence_T, position_T, ids_TK, weight_TK, logits_TE):
        ids = ids_TK.copy()
        ids[:, 1::2] = -1
        return ids, weight_TK.copy()

    model = load(folder, "native", threads=1)
    model.rechoose = rechoose
    wanted = model(torch.tensor([IDS])).logits
    tiered(model, NativeDevice(), RandomLadder(30, policy_of(model), 5))
    assert torch.equal(model(torch.tensor([IDS])).logits, wanted)
