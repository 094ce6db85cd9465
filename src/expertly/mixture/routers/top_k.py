"""Each token takes the K experts of its largest scores."""

from torch import Tensor

from expertly import kernels
from expertly.config import Router
from expertly.mixture.capacity import fit
from expertly.mixture.quota import fill
from expertly.mixture.routers.pools import within_pools
from expertly.mixture.routers.scores import score, weigh, within_groups
from expertly.mixture.routing import Choice, Tokens


def top_k(
    logits_TE: Tensor,
    num_chosen: int,
    router: Router,
    tokens: Tokens,
    is_training: bool,
    *,
    noisy_TE: Tensor | None,
    steer_E: Tensor | None,
    num_experts: int,
) -> Choice:
    """Scores of the logits (the noisy ones if there are any); those that steer, grouped; the K
    largest, as far as experts have room. Weights are of the scores alone."""
    drawn_TE = logits_TE if noisy_TE is None else noisy_TE
    if is_training and router.min_pool is not None:
        drawn_TE = within_pools(drawn_TE, router.min_pool, tokens)
    probs_TE = score(drawn_TE, router)
    scores_TE = probs_TE if steer_E is None else probs_TE + steer_E
    if router.groups is not None:
        scores_TE = within_groups(scores_TE, router.groups)
    ids_TK, kept_TK = kernels.largest(scores_TE, num_chosen), None
    if is_training and router.capacity is not None:
        ids_TK, kept_TK = fit(
            ids_TK, probs_TE, scores_TE, tokens.mask_T, router.capacity, num_experts
        )
    if is_training and router.min_rows:
        ids_TK = fill(ids_TK, probs_TE, tokens.mask_T, router.min_rows, num_experts)
    weight_TK = weigh(probs_TE.gather(-1, ids_TK), router)
    return Choice(ids_TK, weight_TK, logits_TE, probs_TE, scores_TE, kept_TK)
