"""Losses that keep routers balanced: pure functions of one layer's `Routing`.

Take the mean over layers of what they return: pooling the layers' counts first would call two
layers balanced that each use only half of their experts.
"""

import torch
from torch import Tensor

from expertly.mixture.routing import Routing


def load_balance(routing: Routing) -> Tensor:
    """E * sum_i f_i P_i, 1 when balanced (Switch, arXiv 2101.03961, equations 4 to 6).

    f_i: share of the routed rows that went to expert i; P_i: mean probability of i. Padding
    counts in neither. No tokens: 0.
    """
    num_experts = routing.probs_TE.shape[1]
    kept_R = routing.mask_T[routing.token_R]
    experts = torch.arange(num_experts, device=kept_R.device)
    expert_R = experts.repeat_interleave(routing.counts_E)
    rows_E = torch.bincount(expert_R[kept_R], minlength=num_experts)
    share_E = rows_E / rows_E.sum().clamp(min=1)
    mask_T = routing.mask_T.to(routing.probs_TE.dtype)
    mean_prob_E = mask_T @ routing.probs_TE / mask_T.sum().clamp(min=1)
    return num_experts * (share_E * mean_prob_E).sum()


def router_z(routing: Routing) -> Tensor:
    """mean over tokens of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, equation 5)."""
    mask_T = routing.mask_T.to(routing.logits_TE.dtype)
    squares_T = routing.logits_TE.logsumexp(-1).square()
    return (squares_T * mask_T).sum() / mask_T.sum().clamp(min=1)
