"""Parameters of a mixture that no dense model has: routers, and shared experts that are silent."""

import torch
from torch import Tensor

from expertly.rewrite.cutting import generator

_STD = 0.02


def random_router(seed: int, layer: int, num_rows: int, hidden_size: int) -> Tensor:
    """Normal(0, 0.02), as sparse upcycling has it (arXiv 2212.05055)."""
    return torch.randn((num_rows, hidden_size), generator=generator(seed, layer, "router")) * _STD


def silent_expert(kind: str, shape: tuple[int, ...], seed: int, layer: int) -> Tensor:
    """A shared expert that adds nothing yet, and learns: only its last matrix is zero."""
    if kind == "down":
        return torch.zeros(shape)
    return torch.randn(shape, generator=generator(seed, layer, "silent", kind)) * _STD


def half_open_gate(hidden_size: int) -> Tensor:
    """The shared expert's gate before it learns: sigmoid(0) is a half for every token."""
    return torch.zeros(hidden_size)
