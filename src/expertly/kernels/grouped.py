"""Experts as grouped products of torch: a gather before, a weighted sum over slots after.

What a GPU computes, and whatever else `native` does not take. All sizes are known from shapes, so
that a process never waits for its GPU, except in the loop of `reference.grouped_mm` where torch's
product does not fit, and in torch's own on GPUs of another compute capability than 9 and 10. Not
yet run on a GPU.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from expertly.config import Glu
from expertly.kernels import reference

_ALIGNMENT_BYTES = 16
_TYPES = {"cuda": (torch.bfloat16,)}
_OTHER_TYPES = (torch.float32, torch.bfloat16)


def grouped_mm(x_RD: Tensor, w_EFD: Tensor, counts_E: Tensor) -> Tensor:
    """y_RF: each row times the matrix of its expert; rows come sorted by expert.

    Torch's kernel wherever it takes the operands: on a processor it was ahead of the loop over
    experts at every size measured, from 8 rows to 2,048 (benchmarks/results, `make bench`).
    """
    if x_RD.device.type != "cpu":
        x_RD, w_EFD = _as_autocast(x_RD, w_EFD)
    if not _fits(x_RD, w_EFD):
        return reference.grouped_mm(x_RD, w_EFD, counts_E)
    return torch_grouped_mm(x_RD, w_EFD, counts_E)


def torch_grouped_mm(x_RD: Tensor, w_EFD: Tensor, counts_E: Tensor) -> Tensor:
    """`reference.grouped_mm` by torch's own kernel, for what it takes."""
    offsets_E = counts_E.cumsum(0).to(torch.int32)
    found_RF = F.grouped_mm(x_RD.contiguous(), w_EFD.mT, offs=offsets_E)
    y_RF: Tensor = _WholeGradient.apply(found_RF)  # type: ignore[no-untyped-call]
    return y_RF


def _fits(x_RD: Tensor, w_EFD: Tensor) -> bool:
    """Whether torch's grouped product takes these: rows, aligned strides, a type it knows."""
    types = _TYPES.get(x_RD.device.type, _OTHER_TYPES)
    if x_RD.shape[0] == 0 or x_RD.dtype not in types or x_RD.dtype != w_EFD.dtype:
        return False
    widths = (w_EFD.shape[1], w_EFD.shape[2])
    return all(width * x_RD.element_size() % _ALIGNMENT_BYTES == 0 for width in widths)


def expert_rows(
    x_TD: Tensor,
    w_gate_EFD: Tensor,
    w_up_EFD: Tensor,
    w_down_EDF: Tensor,
    weight_TK: Tensor,
    order_R: Tensor,
    counts_E: Tensor,
    rule: Glu,
) -> Tensor:
    """y_TD: `reference.expert_rows`, on any device. Products are of x's type, or of autocast's
    where it is on."""
    x_TD, *stacks = _as_autocast(x_TD, w_gate_EFD, w_up_EFD, w_down_EDF)
    num_tokens, num_slots = weight_TK.shape
    x_RD = gather(x_TD, order_R, num_slots)
    gate_RF, up_RF = (grouped_mm(x_RD, w_EFD, counts_E) for w_EFD in stacks[:2])
    y_RD = grouped_mm(reference.glu(gate_RF, up_RF, rule), stacks[2], counts_E)
    y_TKD = put_back(y_RD, order_R, num_tokens, num_slots)
    return torch.einsum("tkd,tk->td", y_TKD, weight_TK.to(y_TKD.dtype))


def gather(x_TD: Tensor, order_R: Tensor, num_slots: int) -> Tensor:
    """x_RD, the token of each row; its gradient is a sum over slots in their order, whatever the
    device: torch's own adds rows in the order in which a GPU gets to them."""
    x_RD: Tensor = _Gather.apply(x_TD, order_R, num_slots)  # type: ignore[no-untyped-call]
    return x_RD


def put_back(y_RD: Tensor, order_R: Tensor, num_tokens: int, num_slots: int) -> Tensor:
    """y_TKD: rows by token and slot again, zeros where there is none."""
    size, width = num_tokens * num_slots, y_RD.shape[1]
    if len(order_R) < size:
        y_XD = y_RD.new_zeros(size, width).index_copy(0, order_R, y_RD)
        return y_XD.view(num_tokens, num_slots, width)
    # a whole permutation has an inverse
    place_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(size, device=y_RD.device))
    return y_RD.index_select(0, place_R).view(num_tokens, num_slots, width)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, order_R: Tensor, num_slots: int) -> Tensor:
        ctx.save_for_backward(order_R)
        ctx.shape_TK = (x_TD.shape[0], num_slots)
        return x_TD.index_select(0, order_R // num_slots)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (order_R,) = ctx.saved_tensors
        return put_back(grads[0], order_R, *ctx.shape_TK).sum(1), None, None


class _WholeGradient(torch.autograd.Function):
    """Nothing, but for gradients that are one number spread out: torch's product refuses those."""

    @staticmethod
    def forward(ctx: Any, y_RF: Tensor) -> Tensor:
        return y_RF.view_as(y_RF)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()


def _as_autocast(*parts: Tensor) -> tuple[Tensor, ...]:
    """In the type that autocast asks for where it is on; torch does not do it for this product."""
    kind = parts[0].device.type
    if not torch.is_autocast_enabled(kind):
        return parts
    dtype = torch.get_autocast_dtype(kind)
    return tuple(part.to(dtype) for part in parts)
