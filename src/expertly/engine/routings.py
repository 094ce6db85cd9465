"""A routing cut down to one of its tokens, and as plain numbers."""

import torch
from torch import Tensor

from expertly.mixture import Routing


def of_column(routing: Routing, token: int) -> Routing:
    """The routing of one token, as if it had been alone: its rows, and its line of each table."""
    is_own_R = routing.token_R == token
    expert_R = _expert_R(routing)
    line = slice(token, token + 1)
    return Routing(
        token_R=routing.token_R[is_own_R] - token,
        slot_R=routing.slot_R[is_own_R],
        weight_R=routing.weight_R[is_own_R],
        counts_E=expert_R[is_own_R].bincount(minlength=routing.counts_E.shape[0]),
        logits_TE=routing.logits_TE[line],
        probs_TE=routing.probs_TE[line],
        scores_TE=routing.scores_TE[line],
        mask_T=routing.mask_T[line],
        sequence_T=routing.sequence_T[line],
    )


def shares(routing: Routing) -> list[tuple[int, float]]:
    """The experts of a routing of one token and their weights, the largest first."""
    pairs = zip(_expert_R(routing).tolist(), routing.weight_R.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: -pair[1])


def _expert_R(routing: Routing) -> Tensor:
    return torch.arange(routing.counts_E.shape[0]).repeat_interleave(routing.counts_E.cpu())
