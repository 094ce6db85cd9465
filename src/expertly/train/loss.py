"""Cross entropy that makes its gradient on the way, a chunk of tokens at a time."""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 256


def cross_entropy(logits_TV: Tensor, target_T: Tensor) -> Tensor:
    """Mean over tokens of -ln softmax(logits)[target]: one buffer of the logits' size instead of
    three, and about a third faster on a CPU than torch's own. Its backward runs once."""
    loss: Tensor = _CrossEntropy.apply(logits_TV, target_T)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, target_T: Tensor) -> Tensor:
        grad_TV = torch.empty_like(logits_TV)
        total = torch.zeros((), dtype=torch.float64, device=logits_TV.device)
        for start in range(0, len(target_T), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            log_probs_TV = logits_TV[chunk].log_softmax(-1)
            target_T1 = target_T[chunk, None]
            total -= log_probs_TV.gather(1, target_T1).sum(dtype=torch.float64)
            torch.exp(log_probs_TV, out=grad_TV[chunk])
            one_T1 = torch.ones_like(target_T1, dtype=grad_TV.dtype)
            grad_TV[chunk].scatter_add_(1, target_T1, -one_T1)
        ctx.grad_TV = grad_TV
        return (total / len(target_T)).to(logits_TV.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad_TV: Tensor = ctx.grad_TV
        del ctx.grad_TV  # scaled in place: a second backward must fail, not be wrong
        return grad_TV.mul_(grad / len(grad_TV)), None
