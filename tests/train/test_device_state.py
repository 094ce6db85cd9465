"""What a checkpoint remembers of a device, and what the command asks of NCCL; no GPU is needed."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from expertly.cli import train as command
from expertly.train.state import random_states, restore_random_states

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture
def generator(monkeypatch) -> dict[torch.device, list[int]]:
    """The state of each GPU's generator, four bytes of it."""
    states = {GPU: [1, 2, 3, 254]}

    def put(state: Tensor, device: torch.device) -> None:
        states[device] = state.tolist()

    monkeypatch.setattr(
        torch.cuda, "get_rng_state", lambda d: torch.tensor(states[d], dtype=torch.uint8)
    )
    monkeypatch.setattr(torch.cuda, "set_rng_state", put)
    return states


def test_a_gpus_generator_is_saved_and_goes_on(generator) -> None:
    saved = random_states(GPU)
    assert saved["cuda"] == "010203fe"
    generator[GPU] = [0, 0, 0, 0]
    restore_random_states(saved, GPU)
    assert generator == {GPU: [1, 2, 3, 254]}


def test_a_processors_run_asks_no_gpu_for_its_generator(generator, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_rng_state", None)
    monkeypatch.setattr(torch.cuda, "set_rng_state", None)
    saved = random_states(CPU)
    assert "cuda" not in saved
    restore_random_states({**saved, "cuda": "00"}, CPU)


def test_a_run_that_moves_to_a_gpu_leaves_its_generator_as_it_is(generator) -> None:
    restore_random_states(random_states(CPU), GPU)
    assert generator == {GPU: [1, 2, 3, 254]}


def test_the_processors_generator_goes_on_on_a_gpu_too(generator) -> None:
    saved = random_states(GPU)
    first = torch.rand(3)
    restore_random_states(saved, GPU)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize(("before", "after"), [(None, "2"), ("1", "1")])
def test_the_command_lets_nccl_fail_unless_told_otherwise(before, after, monkeypatch) -> None:
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
    environment = {} if before is None else {name: before}
    found: list[str] = []

    def train(*_, **__) -> None:
        found.append(environment[name])
        raise SystemExit

    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(command, "read_recipe", lambda path: path)
    monkeypatch.setattr(command, "_adapt", lambda recipe, *_: recipe)
    monkeypatch.setattr(command, "train", train)
    with pytest.raises(SystemExit):
        command.command(Path("recipe.toml"), out=Path("run"))
    assert found == [after]
