"""Tensors in, tensors out. `reference` defines each kernel; this module picks the quickest path."""

import torch
import torch.nn.functional as F
from torch import Tensor

from expertly.kernels import reference
from expertly.kernels.native import expert_rows, is_native, largest, sort_places
from expertly.kernels.reference import glu, layer_norm, rotate

__all__ = [
    "attention",
    "expert_rows",
    "glu",
    "grouped_mm",
    "is_native",
    "largest",
    "layer_norm",
    "reference",
    "rms_norm",
    "rotate",
    "sort_places",
    "torch_grouped_mm",
]

_ALIGNMENT_BYTES = 16


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    if x_D.dtype != weight_D.dtype:
        # under autocast; torch would take its slow path, and warn
        return F.rms_norm(x_D.float(), weight_D.shape, weight_D.float(), eps).to(x_D.dtype)
    return F.rms_norm(x_D, weight_D.shape, weight_D, eps)


def _fits_grouped_mm(x_RD: Tensor, w_EFD: Tensor) -> bool:
    """Whether torch's grouped product takes these: rows, aligned strides, a type it knows."""
    if (
        x_RD.shape[0] == 0
        or x_RD.dtype not in (torch.float32, torch.bfloat16)
        or x_RD.dtype != w_EFD.dtype
    ):
        return False
    widths = (w_EFD.shape[1], w_EFD.shape[2])
    return all(width * x_RD.element_size() % _ALIGNMENT_BYTES == 0 for width in widths)


def grouped_mm(x_RD: Tensor, w_EFD: Tensor, counts_E: Tensor) -> Tensor:
    """y_RF: each row times the matrix of its expert; rows come sorted by expert.

    Torch's kernel wherever it takes the operands: it was ahead of the loop over experts at every
    size measured, from 8 rows to 2,048 (benchmarks/results, `make bench`).
    """
    if not _fits_grouped_mm(x_RD, w_EFD):
        return reference.grouped_mm(x_RD, w_EFD, counts_E)
    return torch_grouped_mm(x_RD, w_EFD, counts_E)


def torch_grouped_mm(x_RD: Tensor, w_EFD: Tensor, counts_E: Tensor) -> Tensor:
    """`reference.grouped_mm` by torch's own kernel, for what it takes."""
    offsets_E = counts_E.cumsum(0).to(torch.int32)
    return F.grouped_mm(x_RD.contiguous(), w_EFD.mT, offs=offsets_E)


def attention(
    q_BHSC: Tensor,
    k_BGNC: Tensor,
    v_BGNC: Tensor,
    seen_BSN: Tensor | None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """`reference.attention`; `seen_BSN` None means plainly causal, with as many keys as queries."""
    if sinks_H is not None:
        seen = causal(q_BHSC) if seen_BSN is None else seen_BSN
        return reference.attention(q_BHSC, k_BGNC, v_BGNC, seen, sinks_H)
    is_grouped = q_BHSC.shape[1] != k_BGNC.shape[1]
    if seen_BSN is None:
        return F.scaled_dot_product_attention(
            q_BHSC, k_BGNC, v_BGNC, is_causal=True, enable_gqa=is_grouped
        )
    return F.scaled_dot_product_attention(
        q_BHSC, k_BGNC, v_BGNC, attn_mask=seen_BSN[:, None], enable_gqa=is_grouped
    )


def causal(q_BHSC: Tensor) -> Tensor:
    """seen_BSN in which every query sees itself and the keys before it."""
    batch, _, length, _ = q_BHSC.shape
    return torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)
