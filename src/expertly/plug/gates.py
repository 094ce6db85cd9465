"""What experts of transformers do between their two products, measured from their own code.

A gate is a function of two numbers. Its slope, shift and limit follow from a few of its values; a
rule made from them is taken only if it agrees with the gate on a whole grid.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from expertly.config import Glu
from expertly.errors import InputError
from expertly.kernels import reference

Gate = Callable[[Tensor, Tensor], Tensor]

_PLAIN: tuple[Literal["gelu", "gelu_tanh", "relu"], ...] = ("gelu", "gelu_tanh", "relu")
_FAR = 1e6
_SAMPLES = 4096
_TOLERANCE = 1e-5


def rule_of(module: Any, width: int) -> Glu:
    """The rule of experts that are `width` wide. Raises InputError if the kernels lack it.

    Experts without a gate are those whose gate is their up: act(x) = a(x) * x for an `a` of ours.
    """
    rule = measured(_gate_of(module), width) if module.has_gate else measured_alone(module.act_fn)
    if rule is None:
        act = getattr(module, "act_fn", None)
        told = getattr(act, "__name__", type(act).__name__) if act is not None else "its own gate"
        raise InputError(
            f"{type(module).__name__}: the kernels have no rule for its activation ({told})",
            hint='run this model with experts_implementation="grouped_mm"',
        )
    return rule


def measured(gate: Gate, width: int = 1) -> Glu | None:
    """The rule that `gate`, over rows that are `width` wide, follows everywhere; None: it has no
    rule of ours."""

    def at(g: float, u: float) -> float:
        pair = (torch.full((1, width), x, dtype=torch.float64) for x in (g, u))
        return gate(*pair)[0, 0].item()

    slope = at(1.0, 1.0) - at(1.0, 0.0)
    if not slope > 0.0:
        return None
    shift = at(1.0, 0.0) / slope
    limit = at(1.0, _FAR) / slope - shift
    grid = _grid(limit, width)
    return next(
        (rule for rule in _candidates(slope, shift, limit) if _agree(rule, gate, grid)), None
    )


def measured_alone(act: Callable[[Tensor], Tensor]) -> Glu | None:
    """The rule whose value is act(x) when gate and up are both x, if there is one."""
    both = _grid(_FAR, 1)[0]
    rules = (Glu(), *(Glu(activation=name) for name in _PLAIN))
    return next((r for r in rules if _agree(r, lambda g, u: act(g), (both, both))), None)


def _gate_of(module: Any) -> Gate:
    def gate(gate_XF: Tensor, up_XF: Tensor) -> Tensor:
        if module.is_concatenated:
            joined = torch.cat((gate_XF, up_XF), dim=-1)
        else:
            joined = torch.stack((gate_XF, up_XF), dim=-1).flatten(-2)
        found: Tensor = module._apply_gate(joined)
        return found

    return gate


def _candidates(slope: float, shift: float, limit: float) -> Iterator[Glu]:
    bound = round(limit, 6) if limit < 0.99 * _FAR else None
    shift = round(shift, 6)
    for name in _PLAIN:
        yield Glu(activation=name, limit=bound, up_shift=shift)
    if slope < 1.0:
        # sigmoid(alpha) = slope
        alpha = round(math.log(slope / (1.0 - slope)), 6)
        yield Glu(activation="silu", alpha=alpha, limit=bound, up_shift=shift)


def _grid(limit: float, width: int) -> tuple[Tensor, Tensor]:
    """Gates and ups, every column with values of its own, on both sides of every bend."""
    steps = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64)
    bends = torch.tensor([-2.0, -0.99, 0.99, 2.0], dtype=torch.float64) * limit
    values = torch.cat((steps, 20.0 * steps, 100.0 * steps[::20], bends.clamp(-100.0, 100.0)))
    generator = torch.Generator().manual_seed(0)
    shape = (2, 1 + _SAMPLES // width, width)
    gate_XF, up_XF = values[torch.randint(len(values), shape, generator=generator)]
    return gate_XF, up_XF


def _agree(rule: Glu, gate: Gate, grid: tuple[Tensor, Tensor]) -> bool:
    theirs, ours = gate(*grid), reference.glu(*grid, rule)
    return theirs.shape == ours.shape and torch.allclose(
        ours, theirs.double(), rtol=_TOLERANCE, atol=_TOLERANCE
    )
