"""Each expert takes the tokens that want it most (arXiv 2202.09368): balanced, and not causal."""

import math

import torch
from torch import Tensor

from expertly.mixture.routing import Choice, of_table


def expert_choice(logits_TE: Tensor, num_chosen: int, mask_T: Tensor) -> Choice:
    """C = ceil(T K / E) tokens an expert, by softmax over experts; T counts no padding, which no
    expert takes. A token's weights are its probabilities; it may have no expert at all."""
    probs_TE = logits_TE.softmax(-1)
    num_tokens = int(mask_T.sum())
    size = min(num_tokens, math.ceil(num_tokens * num_chosen / probs_TE.shape[1]))
    wanted_TE = probs_TE.detach().masked_fill(~mask_T.unsqueeze(-1), -1.0)
    taken_XE = wanted_TE.topk(size, dim=0).indices
    is_taken_TE = torch.zeros_like(probs_TE, dtype=torch.bool).scatter(0, taken_XE, True)
    ids_TK, kept_TK = of_table(is_taken_TE, probs_TE)
    return Choice(ids_TK, probs_TE.gather(-1, ids_TK), logits_TE, probs_TE, probs_TE, kept_TK)
