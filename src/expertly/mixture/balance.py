"""Losses that keep routers balanced: pure functions of one layer's `Routing`.

Take the mean over layers of what they return: pooling the layers' counts first would call two
layers balanced that each use only half of their experts. Padding counts in none of them.
"""

from torch import Tensor

from expertly import kernels
from expertly.mixture.measures import counts, row_experts
from expertly.mixture.routing import Routing


def load_balance(routing: Routing, rows_E: Tensor | None = None) -> Tensor:
    """E * sum_i f_i P_i, 1 when balanced (Switch, arXiv 2101.03961, equations 4 to 6).

    f_i: share of the routed rows that went to expert i; P_i: mean probability of i, a token's
    probabilities divided by their sum first (sigmoids have another). With `rows_E`, the rows of
    all batches and ranks of a step, f is theirs and P stays this batch's: global-batch balance
    (arXiv 2501.11873). No tokens: 0.
    """
    num_experts = routing.probs_TE.shape[1]
    rows_E = counts(routing) if rows_E is None else rows_E
    mask_T = routing.mask_T.to(routing.probs_TE.dtype)
    share_E = rows_E.to(mask_T.dtype) / rows_E.sum().clamp(min=1)
    mean_prob_E = mask_T @ _normalised(routing.probs_TE) / mask_T.sum().clamp(min=1)
    return num_experts * (share_E * mean_prob_E).sum()


def sequence_balance(routing: Routing) -> Tensor:
    """`load_balance` of each sequence by itself, the mean over those that have tokens
    (DeepSeek-V3, arXiv 2412.19437, equations 17 to 20)."""
    probs_TE, sequence_T = _normalised(routing.probs_TE), routing.sequence_T
    num_experts, size = probs_TE.shape[1], int(sequence_T.max()) + 1 if len(sequence_T) else 0
    is_token_R = routing.mask_T[routing.token_R]
    place_R = sequence_T[routing.token_R] * num_experts + row_experts(routing)
    rows_SE = kernels.count(place_R, size * num_experts, is_token_R)
    mask_T = routing.mask_T.to(probs_TE.dtype)
    rows_SE = rows_SE.view(size, num_experts).to(mask_T.dtype)
    tokens_S = mask_T.new_zeros(size).index_add(0, sequence_T, mask_T)
    sum_SE = probs_TE.new_zeros(size, num_experts)
    sum_SE = sum_SE.index_add(0, sequence_T, probs_TE * mask_T[:, None])
    share_SE = rows_SE / rows_SE.sum(1, keepdim=True).clamp(min=1)
    balance_S = num_experts * (share_SE * sum_SE).sum(1) / tokens_S.clamp(min=1)
    return balance_S.sum() / (tokens_S > 0).sum().clamp(min=1)


def importance(routing: Routing) -> Tensor:
    """(std / mean)^2 over experts of their summed probabilities (arXiv 1701.06538, equation 7)."""
    sum_E = routing.mask_T.to(routing.probs_TE.dtype) @ routing.probs_TE
    mean = sum_E.mean()
    return (sum_E - mean).square().mean() / mean.square().clamp(min=1e-20)


def router_z(routing: Routing) -> Tensor:
    """mean over tokens of logsumexp(logits)^2 (ST-MoE, arXiv 2202.08906, equation 5)."""
    mask_T = routing.mask_T.to(routing.logits_TE.dtype)
    squares_T = routing.logits_TE.logsumexp(-1).square()
    return (squares_T * mask_T).sum() / mask_T.sum().clamp(min=1)


def relu_sparsity(routing: Routing, num_chosen: int) -> Tensor:
    """sum_i f_i * mean over tokens of relu(z_i), f_i = E / (K T) times the tokens of expert i
    (ReMoE, arXiv 2412.14711, equations 10 to 12): pushes busy experts' weights towards 0."""
    num_experts = routing.probs_TE.shape[1]
    rows_E = counts(routing)
    mask_T = routing.mask_T.to(routing.probs_TE.dtype)
    num_tokens = mask_T.sum().clamp(min=1)
    share_E = rows_E * num_experts / (num_chosen * num_tokens)
    return (share_E * (mask_T @ routing.probs_TE / num_tokens)).sum()


def _normalised(probs_TE: Tensor) -> Tensor:
    """A token's probabilities divided by their sum; all 0 stays so."""
    return probs_TE / probs_TE.sum(-1, keepdim=True).clamp(min=1e-20)
