"""Tensors in, tensors out. `reference` defines each kernel; this module picks the quickest path."""

import torch
import torch.nn.functional as F
from torch import Tensor

from expertly.config import Glu
from expertly.kernels import grouped, native, reference
from expertly.kernels.grouped import grouped_mm, put_back, torch_grouped_mm
from expertly.kernels.native import count, is_native, largest, sort_places
from expertly.kernels.reference import glu, layer_norm, rotate

__all__ = [
    "attention",
    "count",
    "expert_rows",
    "glu",
    "grouped",
    "grouped_mm",
    "is_native",
    "largest",
    "layer_norm",
    "put_back",
    "reference",
    "rms_norm",
    "rotate",
    "sort_places",
    "torch_grouped_mm",
]


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    if x_D.dtype != weight_D.dtype:
        # under autocast; torch would take its slow path, and warn
        return F.rms_norm(x_D.float(), weight_D.shape, weight_D.float(), eps).to(x_D.dtype)
    return F.rms_norm(x_D, weight_D.shape, weight_D, eps)


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
    """`reference.expert_rows`: by the native operation on processors, by grouped products on other
    devices and for types that it does not know."""
    parts = (x_TD, w_gate_EFD, w_up_EFD, w_down_EDF)
    path = native.expert_rows if native.is_native(*parts) else grouped.expert_rows
    return path(*parts, weight_TK, order_R, counts_E, rule)


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
    every_SS = torch.ones(length, length, dtype=torch.bool, device=q_BHSC.device)
    return every_SS.tril().expand(batch, -1, -1)
