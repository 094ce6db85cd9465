"""The experts of a mixture layer as one operation, with gradients, on native kernels.

Gather, both products in, the gate, the product out and the weighted sum over slots are one call;
between the passes only gate and up of the routed rows are kept (R * 2F numbers), whatever else the
backward pass needs is computed again.
"""

import atexit
import ctypes
from functools import cache

import torch
from torch import Tensor

from expertly import _native
from expertly.config import Glu

_TYPES = (torch.float32, torch.bfloat16)


def is_native(x_TD: Tensor, *weights: Tensor) -> bool:
    """Whether the native operation takes these: processors' memory and types that it knows."""
    return all(part.dtype in _TYPES and part.device.type == "cpu" for part in (x_TD, *weights))


def expert_rows(
    x_TD: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
    weight_TK: Tensor,
    order_R: Tensor,
    counts_E: Tensor,
    glu: Glu,
) -> Tensor:
    """y_TD: `reference.expert_rows` of what `is_native`. Products are of numbers of x's type, or
    of autocast's where it is on, sums float32; weights may be of either type."""
    if torch.is_autocast_enabled("cpu"):
        x_TD = x_TD.to(torch.get_autocast_dtype("cpu"))
    y_TD, _ = _forward(
        x_TD.contiguous(), w_gate_EFD, w_up_EFD, w_down_EDF, weight_TK.float().contiguous(),
        order_R, counts_E, glu.activation, glu.alpha, _limit(glu), glu.up_shift,
    )  # fmt: skip
    found: Tensor = y_TD
    return found


def largest(scores_TE: Tensor, num: int) -> Tensor:
    """ids_TK, the `num` largest of each row, largest first; of equal ones the first, except on
    other devices and of other types, where torch chooses."""
    if scores_TE.dtype != torch.float32 or scores_TE.device.type != "cpu":
        return scores_TE.topk(num, dim=-1).indices
    ids_TK: Tensor = _largest(scores_TE.detach().contiguous(), num)
    return ids_TK


def sort_places(ids_R: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """order_R, the places of ids from 0 to `num` - 1 in order of the ids (of equal ones in order
    of places), and counts_E."""
    if ids_R.device.type != "cpu":
        return ids_R.argsort(stable=True), count(ids_R, num)
    order_R, counts_E = _sort_places(ids_R.to(torch.int64).contiguous(), num)
    return order_R, counts_E


def count(ids_R: Tensor, num: int, is_counted_R: Tensor | None = None) -> Tensor:
    """counts_E, int64: how often each of the ids from 0 to `num` - 1 is there, if it counts."""
    if ids_R.device.type == "cpu":
        ids_R = ids_R if is_counted_R is None else ids_R[is_counted_R]
        return torch.bincount(ids_R, minlength=num)
    # bincount and a mask wait for a GPU to say how long their answers are
    weight_R = torch.ones_like(ids_R) if is_counted_R is None else is_counted_R.to(torch.int64)
    return ids_R.new_zeros(num).scatter_add(0, ids_R, weight_R)


def _limit(glu: Glu) -> float:
    return float("inf") if glu.limit is None else glu.limit


@cache
def _trainer(threads: int) -> _native.Trainer:
    return _native.Trainer(threads, fork=_fork_address())


# before the interpreter takes down what its threads need
atexit.register(_trainer.cache_clear)


def _fork_address() -> int:
    """Where torch's own threads can be asked for (GNU OpenMP's entry), or 0."""
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value or 0
    except AttributeError:
        return 0


@torch.library.custom_op("expertly::largest", mutates_args=(), device_types="cpu")
def _largest(scores_TE: Tensor, num: int) -> Tensor:
    ids_TK = scores_TE.new_empty(scores_TE.shape[0], num, dtype=torch.int64)
    _trainer(torch.get_num_threads()).largest(scores_TE, ids_TK)
    return ids_TK


@_largest.register_fake
def _(scores_TE: Tensor, num: int) -> Tensor:
    return scores_TE.new_empty(scores_TE.shape[0], num, dtype=torch.int64)


@torch.library.custom_op("expertly::sort_places", mutates_args=(), device_types="cpu")
def _sort_places(ids_R: Tensor, num: int) -> tuple[Tensor, Tensor]:
    order_R, counts_E = torch.empty_like(ids_R), ids_R.new_empty(num)
    _native.sort_places(ids_R, order_R, counts_E)
    return order_R, counts_E


@_sort_places.register_fake
def _(ids_R: Tensor, num: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(ids_R), ids_R.new_empty(num)


@torch.library.custom_op("expertly::expert_rows", mutates_args=(), device_types="cpu")
def _forward(
    x_TD: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
    weight_TK: Tensor,
    order_R: Tensor,
    counts_E: Tensor,
    activation: str,
    alpha: float,
    limit: float,
    shift: float,
) -> tuple[Tensor, Tensor]:
    """y_TD, and kept_RX for the backward pass."""
    y_TD = torch.empty_like(x_TD)
    kept_RX = x_TD.new_empty(len(order_R), 2 * w_gate_EFD.shape[1])
    _trainer(torch.get_num_threads()).forward(
        _native.GluRule(activation, alpha, limit, shift),
        x_TD.detach(),
        w_gate_EFD.detach(),
        w_up_EFD.detach(),
        w_down_EDF.detach(),
        weight_TK.detach(),
        order_R,
        counts_E,
        kept_RX,
        y_TD,
    )
    return y_TD, kept_RX


@_forward.register_fake
def _(
    x_TD: Tensor, w_gate_EFD: Tensor, w_up: Tensor, w_down: Tensor, weight: Tensor,
    order_R: Tensor, *_: object,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x_TD), x_TD.new_empty(order_R.shape[0], 2 * w_gate_EFD.shape[1])


@torch.library.custom_op("expertly::expert_rows_back", mutates_args=(), device_types="cpu")
def _backward(
    grad_TD: Tensor,
    x_TD: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
    weight_TK: Tensor,
    order_R: Tensor,
    counts_E: Tensor,
    kept_RX: Tensor,
    activation: str,
    alpha: float,
    limit: float,
    shift: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, the three stacks and the slots' weights."""
    x, gate, up, down, weight = _like((x_TD, w_gate_EFD, w_up_EFD, w_down_EDF, weight_TK))
    _trainer(torch.get_num_threads()).backward(
        _native.GluRule(activation, alpha, limit, shift),
        x_TD.detach(),
        w_gate_EFD.detach(),
        w_up_EFD.detach(),
        w_down_EDF.detach(),
        weight_TK.detach(),
        order_R,
        counts_E,
        kept_RX,
        grad_TD.detach(),
        x,
        gate,
        up,
        down,
        weight,
    )
    return x, gate, up, down, weight


@_backward.register_fake
def _(grad_TD: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return _like(given)


def _like(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Room for the gradients of what is differentiated: x, the stacks, the slots' weights."""
    return tuple(
        torch.empty_like(part, memory_format=torch.contiguous_format) for part in given[:5]
    )


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:7], output[1])
    ctx.rule = inputs[7:]
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad_TD, _):  # type: ignore[no-untyped-def]
    grads = _backward(grad_TD.contiguous(), *ctx.saved_tensors, *ctx.rule)
    return (*grads, *[None] * 6)


_forward.register_autograd(_differentiate, setup_context=_keep)
