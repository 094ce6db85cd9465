"""Experts that nobody chooses any more begin anew beside the one that all choose."""

from collections.abc import Sequence

import torch
from torch import Tensor

from expertly.mixture import measures
from expertly.mixture.layer import MixtureLayer
from expertly.train.balancing import mixtures
from expertly.train.loads import Load
from expertly.train.state import State

NOISE = 0.1  # of a copied weight's own spread, so that the two part ways


def count_dead(dead_steps: Sequence[Sequence[int]], loads: Sequence[Load]) -> list[list[int]]:
    """For how many steps in a row each expert has had under 1% of its fair share of rows."""
    found = []
    for layer, load in enumerate(loads):
        before = dead_steps[layer] if dead_steps else [0] * len(load.counts_E)
        dead = set(measures.dead_experts(load.counts_E))
        found.append([n + 1 if expert in dead else 0 for expert, n in enumerate(before)])
    return found


@torch.no_grad()
def revive(state: State, loads: Sequence[Load], after: int) -> list[tuple[int, int]]:
    """Counts dead steps; whoever has `after` of them becomes a copy of its layer's busiest expert
    with a little noise, its router's row too, without any moments. The (layer, expert) pairs."""
    state.dead_steps = count_dead(state.dead_steps, loads)
    revived = []
    layers = zip(state.model.config.mixture_layers, mixtures(state.model), loads, strict=True)
    for place, (index, layer, load) in enumerate(layers):
        for expert, steps in enumerate(state.dead_steps[place][: layer.router.num_experts]):
            if steps < after:
                continue
            busiest = int(load.counts_E[: layer.router.num_experts].argmax())
            _begin_anew(state.optimisers, layer, expert, busiest)
            state.dead_steps[place][expert] = 0
            revived.append((index, expert))
    return revived


def _begin_anew(
    optimisers: Sequence[torch.optim.Optimizer], layer: MixtureLayer, expert: int, source: int
) -> None:
    router, num = layer.router, layer.router.num_experts
    own = [*layer.experts.parameters(), router.w_ED, router.b_E, router.w_noise_ED]
    for parameter in own:
        if parameter is None or parameter.shape[0] < num:
            continue
        value = parameter[source]
        spread = value.std() if value.numel() > 1 else value.new_zeros(())
        parameter[expert] = value + NOISE * spread * torch.randn_like(value)
        _forget(optimisers, parameter, expert)
    if router.b_steer_E is not None:
        router.b_steer_E[expert] = router.b_steer_E[source]


def _forget(optimisers: Sequence[torch.optim.Optimizer], parameter: Tensor, expert: int) -> None:
    for optimiser in optimisers:
        for moment in optimiser.state.get(parameter, {}).values():
            # a step count has no rows
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                moment[expert] = 0
