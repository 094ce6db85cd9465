"""Which device a process computes on, without there being another."""

import pytest
import torch
import torch.distributed as dist

from expertly.errors import RecipeError
from expertly.parallel import describe_device, has_bfloat16, resolve_device
from expertly.parallel.devices import CPU


def with_gpus(monkeypatch, count: int, rank: int | None = None) -> None:
    """As if torch had so many GPUs, and this were a process of torchrun's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: rank is not None)
    monkeypatch.setenv("LOCAL_RANK", str(rank if rank is not None else 5))


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_without_a_gpu_a_run_is_on_the_processor(name, monkeypatch) -> None:
    with_gpus(monkeypatch, 0)
    assert resolve_device(name) == CPU


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_a_process_alone_takes_the_first_gpu_whatever_its_environment_says(
    name, monkeypatch
) -> None:
    with_gpus(monkeypatch, 2)
    assert resolve_device(name) == torch.device("cuda", 0)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_each_rank_of_a_node_has_a_gpu_of_its_own(rank, monkeypatch) -> None:
    with_gpus(monkeypatch, 4, rank)
    assert resolve_device("auto") == torch.device("cuda", rank)


def test_a_run_that_asks_for_the_processor_gets_it_beside_gpus(monkeypatch) -> None:
    with_gpus(monkeypatch, 4, 1)
    assert resolve_device("cpu") == CPU


def test_cuda_without_a_gpu_is_refused_in_one_line(monkeypatch) -> None:
    with_gpus(monkeypatch, 0)
    with pytest.raises(RecipeError, match="device is 'cuda', and torch finds no GPU") as caught:
        resolve_device("cuda")
    assert "leave device out" in caught.value.hint and "\n" not in caught.value.message


def test_more_ranks_than_gpus_are_refused(monkeypatch) -> None:
    with_gpus(monkeypatch, 2, 2)
    with pytest.raises(RecipeError, match="rank 2 of this node has no GPU of its own: there are 2"):
        resolve_device("auto")


def test_gpus_are_called_by_their_names(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    assert describe_device(torch.device("cuda", 3)) == "Card 3"
    assert describe_device(CPU) == "cpu"


@pytest.mark.parametrize("can", [False, True])
def test_bfloat16_of_a_gpu_is_that_of_its_own_instructions(can, monkeypatch) -> None:
    asked = []

    def is_supported(including_emulation: bool) -> bool:
        asked.append(including_emulation)
        return can

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert has_bfloat16(torch.device("cuda", 0)) is can
    assert asked == [False]
