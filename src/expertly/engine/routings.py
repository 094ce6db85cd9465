"""Cutting a routing down to one of its tokens."""

from expertly.mixture import Routing


def of_column(routing: Routing, token: int) -> Routing:
    """The routing of one token, as if it had been alone: its rows, and its line of each table."""
    is_own_R = routing.token_R == token
    num_experts = routing.counts_E.shape[0]
    expert_R = routing.counts_E.new_tensor(range(num_experts)).repeat_interleave(routing.counts_E)
    line = slice(token, token + 1)
    return Routing(
        token_R=routing.token_R[is_own_R] - token,
        slot_R=routing.slot_R[is_own_R],
        weight_R=routing.weight_R[is_own_R],
        counts_E=expert_R[is_own_R].bincount(minlength=num_experts),
        logits_TE=routing.logits_TE[line],
        probs_TE=routing.probs_TE[line],
        scores_TE=routing.scores_TE[line],
        mask_T=routing.mask_T[line],
        sequence_T=routing.sequence_T[line],
    )
