"""A pool of experts a document: its tokens choose among those alone (EMO)."""

import torch
from torch import Tensor

from expertly.mixture.routing import Tokens


def within_pools(logits_TE: Tensor, min_pool: int, tokens: Tokens) -> Tensor:
    """Logits, -inf outside the pool of the token's sequence: its n ~ U{min_pool..E} experts of
    the largest sum of probabilities. n comes from torch's default generator."""
    num_experts = logits_TE.shape[1]
    num_sequences = int(tokens.sequence_T.max()) + 1 if len(logits_TE) else 0
    size_B = torch.randint(min_pool, num_experts + 1, (num_sequences,))
    return logits_TE.masked_fill(
        ~pools(logits_TE, size_B.to(logits_TE.device), tokens)[tokens.sequence_T], float("-inf")
    )


def pools(logits_TE: Tensor, size_B: Tensor, tokens: Tokens) -> Tensor:
    """is_in_BE: the `size_B` experts with the largest sum of softmax over a sequence's tokens,
    padding left out."""
    probs_TE = logits_TE.detach().softmax(-1) * tokens.mask_T.unsqueeze(-1)
    sum_BE = probs_TE.new_zeros(len(size_B), probs_TE.shape[1])
    sum_BE.index_add_(0, tokens.sequence_T, probs_TE)
    order_BE = sum_BE.argsort(dim=-1, descending=True, stable=True)
    rank_BE = order_BE.argsort(-1)
    return rank_BE < size_B.unsqueeze(-1)
