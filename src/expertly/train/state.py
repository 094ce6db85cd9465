"""Everything a run has to remember between two steps, to and from plain tensors and JSON."""

import hashlib
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expertly.model import Decoder
from expertly.train.recipe import OptimiserRecipe

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class State:
    """`step`: steps done, which is also the place in the data; `skipped`: those of them that
    changed nothing because a loss or gradient was not finite, `skipped_in_a_row` the last ones."""

    model: Decoder
    optimiser: torch.optim.AdamW
    step: int = 0
    tokens: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0


def make_optimiser(model: Decoder, recipe: OptimiserRecipe) -> torch.optim.AdamW:
    """AdamW; weights in matrices decay, norms, biases and other vectors do not."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in named if _decays(n, p)], "weight_decay": recipe.weight_decay},
        {"params": [p for n, p in named if not _decays(n, p)], "weight_decay": 0.0},
    ]
    betas = (recipe.betas[0], recipe.betas[1])
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.peak_lr,
        betas=betas,
        eps=recipe.eps,
        fused=True,
    )


def _decays(name: str, parameter: Tensor) -> bool:
    # stacked biases of experts have two dimensions and are biases all the same
    leaf = name.rpartition(".")[2]
    return parameter.dim() >= 2 and "norm" not in name and not leaf.startswith(("b_", "bias"))


def optimiser_tensors(state: State) -> dict[str, Tensor]:
    """AdamW's moments and step counts under the names of the parameters they belong to."""
    return {
        f"{name}.{moment}": state.optimiser.state[parameter][moment]
        for name, parameter in state.model.named_parameters()
        if parameter in state.optimiser.state
        for moment in _MOMENTS
    }


def restore_optimiser(
    optimiser: torch.optim.AdamW, model: Decoder, tensors: dict[str, Tensor]
) -> None:
    for name, parameter in model.named_parameters():
        if f"{name}.step" in tensors:
            optimiser.state[parameter] = {m: tensors[f"{name}.{m}"] for m in _MOMENTS}


def random_states() -> dict[str, Any]:
    """The generators of torch, numpy and Python as JSON."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "numpy": [str(kind), np.asarray(keys).tobytes().hex(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(states["torch"]), dtype=torch.uint8))
    kind, keys, position, has_gauss, cached = states["numpy"]
    array = np.frombuffer(bytes.fromhex(keys), dtype=np.uint32)
    np.random.set_state((kind, array, position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def fingerprint(state: State) -> str:
    """One hash of all that decides what comes next: parameters, moments, generators, counters."""
    total = hashlib.blake2b(digest_size=32)
    tensors = {**dict(state.model.named_parameters()), **optimiser_tensors(state)}
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    counters = (state.step, state.tokens, state.skipped, state.skipped_in_a_row)
    total.update(repr((counters, random_states())).encode())
    return total.hexdigest()
