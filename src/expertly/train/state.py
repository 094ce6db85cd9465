"""Everything a run has to remember between two steps, to and from plain tensors and JSON."""

import hashlib
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expertly.model import Decoder
from expertly.train.muon import Muon
from expertly.train.recipe import OptimiserRecipe


@dataclass
class State:
    """`step`: steps done, which is also the place in the data; `skipped`: those of them that
    changed nothing because a loss or gradient was not finite, `skipped_in_a_row` the last ones."""

    model: Decoder
    optimisers: tuple[torch.optim.Optimizer, ...]
    step: int = 0
    tokens: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    balance_weight: float = 0.0  # of the rule's loss, where it finds itself; 0 at first
    # for how many steps each expert has been dead, by mixture layer
    dead_steps: list[list[int]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        return self.model.embed_VD.device


def make_optimisers(model: Decoder, recipe: OptimiserRecipe) -> tuple[torch.optim.Optimizer, ...]:
    """AdamW, and Muon for the hidden matrices if the recipe gives them a rate. Weights in
    matrices decay, norms, biases and other vectors do not. A group's `scale` is its peak rate
    as a share of the recipe's."""
    named = list(model.named_parameters())
    if recipe.matrix_lr is None:
        return (_adamw(named, recipe),)
    hidden = [(name, p) for name, p in named if _is_hidden_matrix(name, p)]
    others = [(name, p) for name, p in named if not _is_hidden_matrix(name, p)]
    muon = Muon(hidden, lr=recipe.matrix_lr, weight_decay=recipe.weight_decay)
    for group in muon.param_groups:
        group["scale"] = recipe.matrix_lr / recipe.peak_lr
    return _adamw(others, recipe), muon


def _adamw(named: list[tuple[str, nn.Parameter]], recipe: OptimiserRecipe) -> torch.optim.AdamW:
    groups = [
        {"params": [p for n, p in named if _decays(n, p)], "weight_decay": recipe.weight_decay},
        {"params": [p for n, p in named if not _decays(n, p)], "weight_decay": 0.0},
    ]
    for group in groups:
        group["scale"] = 1.0
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


def _is_hidden_matrix(name: str, parameter: Tensor) -> bool:
    """Not the embedding, the head or a router: their rows are looked up or compared one by one."""
    return _decays(name, parameter) and name.startswith("layers.") and ".router." not in name


def optimiser_tensors(state: State) -> dict[str, Tensor]:
    """Moments and step counts under the names of the parameters they belong to."""
    return {
        f"{name}.{moment}": tensor
        for optimiser in state.optimisers
        for name, parameter in state.model.named_parameters()
        if parameter in optimiser.state
        for moment, tensor in optimiser.state[parameter].items()
    }


def restore_optimisers(
    optimisers: tuple[torch.optim.Optimizer, ...], model: Decoder, tensors: dict[str, Tensor]
) -> None:
    """Each optimiser gets back what it kept of the parameters that are its own."""
    kept: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition(".")
        kept.setdefault(name, {})[moment] = tensor
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                moments = kept.get(names[id(parameter)])
                if moments is not None:
                    device = parameter.device
                    optimiser.state[parameter] = {k: t.to(device) for k, t in moments.items()}


def random_states(device: torch.device) -> dict[str, Any]:
    """The generators of torch, of the device if it has its own, numpy and Python as JSON."""
    own = {} if device.type != "cuda" else {"cuda": _hex(torch.cuda.get_rng_state(device))}
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        **own,
        "torch": _hex(torch.get_rng_state()),
        "numpy": [str(kind), np.asarray(keys).tobytes().hex(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """A device whose generator was not saved goes on with the one it has."""
    torch.set_rng_state(_unhex(states["torch"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(_unhex(states["cuda"]), device)
    kind, keys, position, has_gauss, cached = states["numpy"]
    array = np.frombuffer(bytes.fromhex(keys), dtype=np.uint32)
    np.random.set_state((kind, array, position, has_gauss, cached))
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))


def _hex(state: Tensor) -> str:
    return state.numpy().tobytes().hex()


def _unhex(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def fingerprint(state: State) -> str:
    """One hash of all that decides what comes next: parameters, moments, generators, counters."""
    total = hashlib.blake2b(digest_size=32)
    tensors = {**state.model.state_dict(), **optimiser_tensors(state)}
    for name in sorted(tensors):
        total.update(name.encode())
        plain = tensors[name].detach().cpu().contiguous().view(-1)
        total.update(plain.view(torch.uint8).numpy().data)
    counters = (
        state.step,
        state.tokens,
        state.skipped,
        state.skipped_in_a_row,
        state.balance_weight,
        state.dead_steps,
    )
    total.update(repr((counters, random_states(state.device))).encode())
    return total.hexdigest()
