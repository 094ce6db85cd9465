"""The definition of every kernel in plain torch: short, slow where it must be, and always right.

Other paths are held against these by tests over one list of cases (`kernels/cases.py`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from expertly.config import Glu

_ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def rms_norm(x_D: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32 (arXiv 1910.07467)."""
    x = x_D.float()
    normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return (normed * weight_D).to(x_D.dtype)


def layer_norm(x_D: Tensor, weight_D: Tensor, bias_D: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last axis (arXiv 1607.06450)."""
    x = x_D.float()
    centred = x - x.mean(-1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * weight_D
    return (normed if bias_D is None else normed + bias_D).to(x_D.dtype)


def glu(gate: Tensor, up: Tensor, rule: Glu) -> Tensor:
    """act(gate) * (up + shift), the inside of a gated feed-forward (arXiv 2002.05202)."""
    if rule.limit is not None:
        gate = gate.clamp(max=rule.limit)
        up = up.clamp(-rule.limit, rule.limit)
    if rule.activation == "silu":
        acted = F.silu(gate) if rule.alpha == 1.0 else gate * torch.sigmoid(rule.alpha * gate)
    else:
        acted = _ACTIVATIONS[rule.activation](gate)
    return acted * (up + rule.up_shift if rule.up_shift else up)


def rotate(x_C: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs (i, i + C/2) of the last axis turned by an angle each; cos and sin are C/2 wide."""
    first, second = x_C.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def attention(
    q_BHSC: Tensor,
    k_BGNC: Tensor,
    v_BGNC: Tensor,
    seen_BSN: Tensor,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Grouped-query attention: softmax(q k / sqrt(C)) v over the keys that `seen` allows.

    A sink is one more logit a head in the softmax's denominator that has no value. N keys.
    """
    batch, num_groups = k_BGNC.shape[:2]
    q_BGJSC = q_BHSC.float().reshape(batch, num_groups, -1, *q_BHSC.shape[2:])
    scores = q_BGJSC @ k_BGNC.float().unsqueeze(2).mT * q_BHSC.shape[-1] ** -0.5
    scores = scores.masked_fill(~seen_BSN[:, None, None], float("-inf"))
    if sinks_H is not None:
        sink = sinks_H.float().view(1, num_groups, -1, 1, 1).expand(*scores.shape[:4], 1)
        scores = torch.cat((scores, sink), dim=-1)
    shares = scores.softmax(-1)
    if sinks_H is not None:
        shares = shares[..., :-1]
    y_BGJSC: Tensor = shares @ v_BGNC.float().unsqueeze(2)
    return y_BGJSC.flatten(1, 2).to(q_BHSC.dtype)


def grouped_mm(x_RD: Tensor, w_EFD: Tensor, counts_E: Tensor) -> Tensor:
    """y_RF = x_RD @ w_e^T: rows sorted by expert, a product an expert."""
    # unbind, not w[e]: indexing would make the backward pass cost E times the whole stack
    pairs = zip(torch.split(x_RD, counts_E.tolist()), w_EFD.unbind(0), strict=True)
    return torch.cat([x @ w.mT for x, w in pairs])


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
    """y_TD = sum over a token's slots of weight * down(glu(gate x, up x)); rows are
    token * K + slot, sorted by expert, and slots without a row add nothing."""
    num_tokens, num_slots = weight_TK.shape
    x_RD = x_TD.index_select(0, order_R // num_slots)
    gate_RF, up_RF = (grouped_mm(x_RD, w, counts_E) for w in (w_gate_EFD, w_up_EFD))
    y_RD = grouped_mm(glu(gate_RF, up_RF, rule), w_down_EDF, counts_E)
    y_XD = y_RD.new_zeros(num_tokens * num_slots, x_TD.shape[1]).index_copy(0, order_R, y_RD)
    y_TKD = y_XD.view(num_tokens, num_slots, x_TD.shape[1])
    return torch.einsum("tkd,tk->td", y_TKD, weight_TK.to(y_RD.dtype))
