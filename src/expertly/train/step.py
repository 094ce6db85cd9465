"""One optimiser step: batches in, parameters changed, numbers about it out."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from expertly.mixture import Routing, balance, measures
from expertly.train.loss import cross_entropy
from expertly.train.recipe import Recipe
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


@dataclass
class _Load:
    """One layer's load over a step's batches."""

    counts_E: Tensor
    token_entropy: float


def take_step(
    state: State, recipe: Recipe, batches: Iterable[Tensor], dtype: torch.dtype, *, read: bool
) -> Report:
    """Advances `state` by one step on `recipe.run.accumulation` batches of B x (S + 1) ids.

    A loss or gradient that is not finite changes no parameter and no moment: the step is counted
    as skipped. With `read`, the report has a reading a mixture layer, of all batches together.
    """
    report = Report(lr=learning_rate(state.step, recipe.steps, recipe.optimiser))
    share = 1 / recipe.run.accumulation
    loads: dict[int, _Load] = {}
    for ids_BS in batches:
        routings = _accumulate(state, recipe, ids_BS, dtype, report, share)
        if read:
            _add_loads(loads, state, routings, share)
        state.tokens += ids_BS.shape[0] * (ids_BS.shape[1] - 1)
    _update(state, recipe, report)
    state.step += 1
    report.readings = [_reading(state.step, layer, load) for layer, load in loads.items()]
    return report


def _accumulate(
    state: State, recipe: Recipe, ids_BS: Tensor, dtype: torch.dtype, report: Report, share: float
) -> tuple[Routing, ...]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = state.model(ids_BS[:, :-1], routings=True)
    routings: tuple[Routing, ...] = output.routings
    loss = cross_entropy(output.logits.flatten(0, 1), ids_BS[:, 1:].flatten())
    balance_loss = _mean([balance.load_balance(routing) for routing in routings])
    z_loss = _mean([balance.router_z(routing) for routing in routings])
    run = recipe.run
    total = (loss + run.balance * balance_loss + run.z * z_loss) * share
    total.backward()  # type: ignore[no-untyped-call]
    report.loss += float(loss.detach()) * share
    report.balance += float(balance_loss.detach()) * share
    report.z += float(z_loss.detach()) * share
    return routings


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean() if values else torch.zeros(())


def _update(state: State, recipe: Recipe, report: Report) -> None:
    parameters = list(state.model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.optimiser.clip, foreach=True)
    report.grad_norm = float(norm)
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


@torch.no_grad()
def _add_loads(
    loads: dict[int, _Load], state: State, routings: tuple[Routing, ...], share: float
) -> None:
    for layer, routing in zip(state.model.config.mixture_layers, routings, strict=True):
        counts_E = measures.counts(routing)
        load = loads.setdefault(layer, _Load(torch.zeros_like(counts_E), 0.0))
        load.counts_E += counts_E
        load.token_entropy += measures.token_entropy(routing) * share


def _reading(step: int, layer: int, load: _Load) -> Reading:
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
    )
