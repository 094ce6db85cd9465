"""What training adds to a router's input or logits; drawn from torch's default generator."""

import torch
from torch import Tensor


def jittered(x_TD: Tensor, jitter: float) -> Tensor:
    """x * U(1 - jitter, 1 + jitter), a number an element (Switch, arXiv 2101.03961)."""
    return x_TD * torch.empty_like(x_TD).uniform_(1 - jitter, 1 + jitter)


def noisy(logits_TE: Tensor, spread_TE: Tensor) -> Tensor:
    """z + N(0, 1) * softplus(spread) (Shazeer 2017, arXiv 1701.06538, equation 4)."""
    return logits_TE + torch.randn_like(logits_TE) * torch.nn.functional.softplus(spread_TE)
