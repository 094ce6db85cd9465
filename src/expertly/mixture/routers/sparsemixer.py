"""SparseMixer-v2 (GRIN, arXiv 2409.12136, section 2.2): the largest logit, weighed by a softmax
over those within 2 * jitter of it; then the same without that expert. In training a sample takes
the place of the largest, and its gradient that of every choice that was not made."""

import torch
from torch import Tensor

from expertly.mixture.routing import Choice

_WHOLE = 0.25  # how often a sample keeps its whole weight; else it has a third of it


def sparsemixer(logits_TE: Tensor, num_chosen: int, jitter: float, is_training: bool) -> Choice:
    """K <= 2; samples come from torch's default generator."""
    left_TE = logits_TE
    ids, weights = [], []
    for _ in range(num_chosen):
        id_T1 = top_T1 = left_TE.argmax(-1, keepdim=True)
        near_TE = near(left_TE, logits_TE, jitter)
        if is_training:
            # the argmax of logits less the log of an exponential draw is a sample of their softmax
            id_T1 = (near_TE - torch.empty_like(near_TE).exponential_().log()).argmax(-1, True)
        weight_T1 = near_TE.softmax(-1).gather(-1, id_T1)
        if is_training:
            is_whole_T1 = (id_T1 == top_T1) | (torch.rand_like(weight_T1) > 1 - _WHOLE)
            weight_T1 = estimated(weight_T1, is_whole_T1)
        ids.append(id_T1)
        weights.append(weight_T1)
        left_TE = left_TE.scatter(-1, id_T1, float("-inf"))
    return Choice(
        torch.cat(ids, -1), torch.cat(weights, -1), logits_TE, logits_TE.softmax(-1), logits_TE
    )


def near(left_TE: Tensor, logits_TE: Tensor, jitter: float) -> Tensor:
    """The logits left, -inf for those more than 2 * jitter from the largest of them. The gap is
    measured from the logits as they were, also for experts already taken."""
    top_T1 = left_TE.amax(-1, keepdim=True).detach()
    gap_TE = (top_T1 - logits_TE) / logits_TE.abs().clamp(min=top_T1)
    return left_TE.masked_fill(gap_TE > 2 * jitter, float("-inf"))


def estimated(weight_T1: Tensor, is_whole_T1: Tensor) -> Tensor:
    """The weight p or a third of it, with the gradient of p in both cases: Heun's third-order
    rule, whose nodes 1 and 1/3 have the weights 1/4 and 3/4 that chance gives them."""
    third_T1 = weight_T1 / 3 + (weight_T1 - weight_T1.detach()) * (2 / 3)
    return torch.where(is_whole_T1, weight_T1, third_T1)
