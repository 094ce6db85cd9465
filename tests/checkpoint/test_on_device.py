"""Experts onto a device when a model is loaded: what is refused, how many fit, what is said."""

from pathlib import Path

import pytest
import torch

from expertly.checkpoint import load
from expertly.checkpoint.locating import bundled
from expertly.checkpoint.on_device import device_of, largest_expert, put_on_device, slots_in
from expertly.checkpoint.packed_saving import open_folder, save_packed
from expertly.checkpoint.recipe import recipe_of_bits
from expertly.errors import InputError
from expertly.model import NativeDecoder

# the bundled model: 192 wide, experts of 64, 4 layers of 32
EXPERT_BYTES = 2 * (3 * 192 * 64 + 2 * 64)


@pytest.fixture
def model() -> NativeDecoder:
    return load(bundled(), "native", threads=1)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 2 << 30))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_option_to_leave_out_is_named() -> None:
    with pytest.raises(InputError, match="device cuda, but this torch finds no GPU") as caught:
        load("", device="cuda")
    assert "--device" in caught.value.hint


@pytest.mark.parametrize("name", ["gpu", "cpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", ""])
def test_a_device_that_nobody_knows_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="is not known"):
        device_of(name)


def test_gpus_are_counted_from_zero(two_gpus: None) -> None:
    assert device_of("cuda") == device_of("cuda:0") == torch.device("cuda", 0)
    assert device_of("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(InputError, match="cuda:2, but there are 2 GPUs"):
        device_of("cuda:2")


def test_memory_of_no_device_is_refused() -> None:
    with pytest.raises(InputError, match="no device"):
        load("", device_memory="1GB")


def test_a_model_that_torch_computes_takes_no_device() -> None:
    with pytest.raises(InputError, match="native kernels alone"):
        load("", "float32", device="cuda")


def test_an_expert_takes_two_bytes_a_number_on_the_device(model: NativeDecoder) -> None:
    assert largest_expert(model) * 2 == EXPERT_BYTES
    assert slots_in(model, 10 * EXPERT_BYTES + 5) == 10
    assert slots_in(model, 10**12) == 4 * 32


@pytest.mark.parametrize("memory", [EXPERT_BYTES - 1, 0, -5])
def test_room_of_no_expert_is_refused_with_what_one_takes(model: NativeDecoder, memory) -> None:
    with pytest.raises(InputError, match=f"one expert takes {EXPERT_BYTES:,} there"):
        slots_in(model, memory)


def test_the_arena_is_full_before_the_first_token_and_said_in_words(
    model: NativeDecoder, two_gpus: None
) -> None:
    put_on_device(model, torch.device("cpu"), 10 * EXPERT_BYTES, threads=2)
    assert model.tier is not None and len(model.tier.ladder.slots) == 10
    assert model.budget == "device 1 MB for 10 of 128 experts"
    model.tier.close()


def test_most_of_what_is_free_is_taken_unless_said(model, two_gpus, monkeypatch) -> None:
    # a tenth, and half a gigabyte at least, are left
    for free, count in ((512 << 20, None), ((512 << 20) + 7 * EXPERT_BYTES, 7), (4 << 30, 128)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        if count is None:
            with pytest.raises(InputError, match="0 bytes on the device"):
                put_on_device(model, torch.device("cpu"), None, threads=1)
            continue
        put_on_device(model, torch.device("cpu"), None, threads=1)
        assert len(model.tier.ladder.slots) == count
        model.tier.close()


def test_a_budget_in_memory_and_one_on_the_device_are_both_said(
    tmp_path: Path, monkeypatch, two_gpus
) -> None:
    monkeypatch.setattr("expertly.checkpoint.loading.device_of", lambda name: torch.device("cpu"))
    folder = tmp_path / "packed"
    with open_folder(bundled()) as source:
        save_packed(source, folder, recipe_of_bits(8))
    model = load(folder, memory="4GB", device="cuda", device_memory=EXPERT_BYTES * 3, threads=1)
    assert model.budget.endswith("all fit; device 0 MB for 3 of 128 experts")
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()
    model.tier.close()
