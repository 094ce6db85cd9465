"""One optimiser step: batches in, parameters changed, numbers about it out."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from expertly.mixture import MixtureLayer, Routing, measures
from expertly.model import Output
from expertly.parallel import ALONE, Ranks, average_gradients, clip_gradients
from expertly.train.balancing import (
    beside_loss,
    mixtures,
    move_biases,
    next_weight,
    rows_ahead,
    rule_loss,
)
from expertly.train.loads import Load
from expertly.train.loss import cross_entropy
from expertly.train.recipe import Recipe
from expertly.train.reviving import revive
from expertly.train.schedule import learning_rate
from expertly.train.state import State
from expertly.train.watch import Reading

_BUSIEST = 3


@dataclass
class Report:
    """Means over a step's batches; `loss` is the cross entropy alone, in nats a token."""

    lr: float
    loss: float = 0.0
    balance: float = 0.0
    z: float = 0.0
    grad_norm: float = 0.0
    is_skipped: bool = False
    readings: list[Reading] = field(default_factory=list)
    revived: list[tuple[int, int]] = field(default_factory=list)  # layer, expert


def take_step(
    state: State,
    recipe: Recipe,
    batches: Iterable[Tensor],
    dtype: torch.dtype,
    *,
    read: bool,
    ranks: Ranks = ALONE,
) -> Report:
    """Advances `state` by one step on `recipe.run.accumulation` batches of B x (S + 1) ids, of
    which each rank computes its part; the report is the same on all.

    A loss or gradient that is not finite changes no parameter, moment or bias: the step is counted
    as skipped. With `read`, the report has a reading a mixture layer, of all batches together.
    """
    report = Report(lr=learning_rate(state.step, recipe.steps, recipe.optimiser))
    batches = [ranks.own(ids_BS).to(ranks.device) for ids_BS in batches]
    rows: list[Tensor] = []
    if recipe.balance.rule == "global":
        ahead = rows_ahead(
            lambda ids_BS: _forward(state, ids_BS, dtype).routings or (), batches, ranks.device
        )
        rows = ranks.sums(ahead)
    needs_loads = read or recipe.balance.rule in ("bias", "quantile", "relu")
    loads: list[Load] = []
    for ids_BS in batches:
        routings = _accumulate(state, recipe, ids_BS, dtype, report, rows, ranks)
        if needs_loads or recipe.balance.revive_after:
            loads = Load.added(loads, routings)
        state.tokens += ids_BS.shape[0] * (ids_BS.shape[1] - 1) * ranks.count
    loads = [load.over(ranks, has_scores=recipe.balance.rule == "quantile") for load in loads]
    average_gradients(state.model, ranks)
    gradients = [_router_gradient(layer) for layer in mixtures(state.model)] if read else []
    _update(state, recipe, report, ranks)
    if not report.is_skipped:
        move_biases(recipe.balance, state.model, loads)
        state.balance_weight = next_weight(
            recipe.balance, state.model.config, state.balance_weight, loads
        )
        if recipe.balance.revive_after:
            report.revived = revive(state, loads, recipe.balance.revive_after)
    state.step += 1
    if read:
        layers = zip(state.model.config.mixture_layers, loads, gradients, strict=True)
        report.readings = [_reading(state.step, *layer) for layer in layers]
    return report


def _forward(state: State, ids_BS: Tensor, dtype: torch.dtype) -> Output:
    is_half = dtype == torch.bfloat16
    with torch.autocast(ids_BS.device.type, dtype=torch.bfloat16, enabled=is_half):
        output: Output = state.model(ids_BS[:, :-1], routings=True)
    return output


def _accumulate(
    state: State,
    recipe: Recipe,
    ids_BS: Tensor,
    dtype: torch.dtype,
    report: Report,
    rows: Sequence[Tensor],
    ranks: Ranks,
) -> tuple[Routing, ...]:
    output = _forward(state, ids_BS, dtype)
    routings = output.routings or ()
    if ranks.count > 1 and not rows:
        rows = ranks.sums([measures.counts(routing) for routing in routings])
    rule, share = recipe.balance, 1 / recipe.run.accumulation
    loss = cross_entropy(output.logits.flatten(0, 1), ids_BS[:, 1:].flatten())
    balance_loss = rule_loss(rule, state.model.config, routings, rows)
    sequence_loss, z_loss = beside_loss(rule, routings)
    beside = rule.sequence * sequence_loss + rule.z * z_loss
    weight = state.balance_weight or rule.first_weight
    total = (loss + weight * balance_loss + beside) * share
    total.backward()  # type: ignore[no-untyped-call]
    found = ranks.means(*(float(part.detach()) for part in (loss, balance_loss, z_loss)))
    report.loss += found[0] * share
    report.balance += found[1] * share
    report.z += found[2] * share
    return routings


def _router_gradient(layer: MixtureLayer) -> float | None:
    """The norm of the gradient of the router's matrix, if there is one that is trained."""
    weight = layer.router.w_ED
    if weight is None or not weight.requires_grad:
        return None
    if weight.grad is None:
        return 0.0
    norm = weight.grad.norm()
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _update(state: State, recipe: Recipe, report: Report, ranks: Ranks) -> None:
    report.grad_norm = clip_gradients(state.model, recipe.optimiser.clip, ranks)
    report.is_skipped = not (math.isfinite(report.grad_norm) and math.isfinite(report.loss))
    if report.is_skipped:
        state.skipped += 1
        state.skipped_in_a_row += 1
    else:
        for optimiser in state.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = report.lr * group["scale"]
            optimiser.step()
        state.skipped_in_a_row = 0
    state.model.zero_grad(set_to_none=True)


def _reading(step: int, layer: int, load: Load, router_gradient: float | None) -> Reading:
    busiest = load.counts_E.topk(min(_BUSIEST, len(load.counts_E))).indices
    return Reading(
        step=step,
        layer=layer,
        num_experts=len(load.counts_E),
        load_entropy=measures.load_entropy(load.counts_E),
        max_violation=measures.max_violation(load.counts_E),
        token_entropy=load.token_entropy,
        dead=tuple(measures.dead_experts(load.counts_E)),
        busiest=tuple(busiest.tolist()),
        router_gradient=router_gradient,
    )
