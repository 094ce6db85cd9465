"""From logits to scores, from scores to those that can be chosen, and to weights."""

import torch
from torch import Tensor

from expertly.config import Groups, Router

_LEAST = 1e-20  # as DeepSeek-V3 has it: weights that are all 0 stay 0


def score(logits_TE: Tensor, router: Router) -> Tensor:
    """softmax over experts, or a function of each logit alone: sigmoid (DeepSeek-V3, arXiv
    2412.19437, equation 15), sqrt(softplus(z)) (DeepSeek-V4)."""
    if router.score == "sigmoid":
        return logits_TE.sigmoid()
    if router.score == "sqrt_softplus":
        positive_TE = torch.nn.functional.softplus(logits_TE)
        # the root of 0 has no gradient
        return positive_TE.clamp(min=torch.finfo(positive_TE.dtype).tiny).sqrt()
    return logits_TE.softmax(-1)


def within_groups(scores_TE: Tensor, groups: Groups) -> Tensor:
    """Scores, -inf outside of each token's best groups (DeepSeek-V2, arXiv 2405.04434, section
    2.2.2, by the maximum; DeepSeek-V3 by the sum of the two largest)."""
    # G counts groups here and X the experts of one
    scores_TGX = scores_TE.view(len(scores_TE), groups.num, scores_TE.shape[1] // groups.num)
    if groups.score == "max":
        of_group_TG = scores_TGX.amax(-1)
    else:
        of_group_TG = scores_TGX.topk(2, dim=-1).values.sum(-1)
    best_TX = of_group_TG.topk(groups.num_chosen, dim=-1).indices
    is_out_TG = torch.ones_like(of_group_TG, dtype=torch.bool).scatter(-1, best_TX, False)
    return scores_TGX.masked_fill(is_out_TG.unsqueeze(-1), float("-inf")).flatten(-2)


def weigh(weight_TK: Tensor, router: Router) -> Tensor:
    """Weights divided by their p-norm if there is a p, times the router's scale."""
    if router.norm_p == 1.0:
        weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True).clamp(min=_LEAST)
    elif router.norm_p is not None:
        norm_T1 = torch.linalg.vector_norm(weight_TK, router.norm_p, dim=-1, keepdim=True)
        weight_TK = weight_TK / norm_T1.clamp(min=_LEAST)
    return weight_TK if router.scale == 1.0 else weight_TK * router.scale
