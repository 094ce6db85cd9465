"""Room for so many rows an expert, and what becomes of the rows beyond: a pure function."""

import math

import torch
from torch import Tensor

from expertly.config import Capacity


def rows_of_room(num_tokens: int, num_chosen: int, num_experts: int, factor: float) -> int:
    """C = ceil(T K / E * factor), the rows that an expert takes (Switch, arXiv 2101.03961,
    equation 3)."""
    return math.ceil(num_tokens * num_chosen / num_experts * factor)


def fit(
    ids_TK: Tensor,
    probs_TE: Tensor,
    scores_TE: Tensor,
    mask_T: Tensor,
    capacity: Capacity,
    num_experts: int,
) -> tuple[Tensor, Tensor]:
    """ids_TK and kept_TK such that no expert has more rows than it has room for.

    Rows are dropped by their probability or place, sent on by `scores_TE`, as the policy says.
    Padding has no rows. The first `num_experts` of E have this room; zero experts have no bound.
    """
    room = rows_of_room(int(mask_T.sum()), ids_TK.shape[1], num_experts, capacity.factor)
    room_E = torch.full((probs_TE.shape[1],), room, device=ids_TK.device)
    room_E[num_experts:] = ids_TK.numel()
    rank_TE = _rank(probs_TE.detach(), capacity.policy)
    asks_TK = mask_T.unsqueeze(-1).expand_as(ids_TK)
    if capacity.policy == "next":
        return _send_on(ids_TK, asks_TK, rank_TE, scores_TE.detach(), room_E)
    return ids_TK, _accepted(ids_TK, asks_TK, rank_TE, room_E)


def _rank(probs_TE: Tensor, policy: str) -> Tensor:
    """Which tokens each expert takes first, 0 before 1: the surest or, by position, the first."""
    if policy == "drop_position":
        places_T = torch.arange(len(probs_TE), device=probs_TE.device)
        return places_T.unsqueeze(-1).expand_as(probs_TE)
    return probs_TE.argsort(dim=0, descending=True, stable=True).argsort(0)


def _accepted(ids_TK: Tensor, asks_TK: Tensor, rank_TE: Tensor, room_E: Tensor) -> Tensor:
    """Which of the slots that ask get into their experts."""
    place_R = asks_TK.flatten().nonzero().flatten()
    expert_R = ids_TK.flatten()[place_R]
    rank_R = rank_TE.gather(-1, ids_TK).flatten()[place_R]
    # by expert, and within an expert by rank, which is below T
    order_R = (expert_R * len(ids_TK) + rank_R).argsort()
    counts_E = torch.bincount(expert_R, minlength=len(room_E))
    first_E = counts_E.cumsum(0) - counts_E
    queued_R = torch.arange(len(order_R), device=order_R.device) - first_E[expert_R[order_R]]
    got_R = order_R[queued_R < room_E[expert_R[order_R]]]
    kept_X = torch.zeros(ids_TK.numel(), dtype=torch.bool, device=ids_TK.device)
    kept_X[place_R[got_R]] = True
    return kept_X.view_as(ids_TK)


def _send_on(
    ids_TK: Tensor, asks_TK: Tensor, rank_TE: Tensor, scores_TE: Tensor, room_E: Tensor
) -> tuple[Tensor, Tensor]:
    """Round after round, slots without room ask their tokens' next best experts that have some."""
    kept_TK = torch.zeros_like(asks_TK)
    asked_TE = torch.zeros_like(scores_TE, dtype=torch.bool).scatter(-1, ids_TK, True)
    while asks_TK.any():
        got_TK = _accepted(ids_TK, asks_TK, rank_TE, room_E)
        kept_TK = kept_TK | got_TK
        room_E = room_E - torch.bincount(ids_TK[got_TK], minlength=len(room_E))
        # an expert that a token asked has it, or is full for good
        open_TE = scores_TE.masked_fill(asked_TE | (room_E == 0), float("-inf"))
        ids_TK, asks_TK = _next(ids_TK, asks_TK & ~got_TK, open_TE)
        asked_TE = asked_TE.scatter(-1, ids_TK, True)
    return ids_TK, kept_TK


def _next(ids_TK: Tensor, asks_TK: Tensor, open_TE: Tensor) -> tuple[Tensor, Tensor]:
    """The j-th slot of a token that still asks gets the j-th best expert that is open."""
    best = open_TE.topk(ids_TK.shape[1], dim=-1)
    which_TK = (asks_TK.cumsum(-1) - 1).clamp(min=0)
    is_open_TK = best.values.gather(-1, which_TK) > float("-inf")
    asks_TK = asks_TK & is_open_TK
    return torch.where(asks_TK, best.indices.gather(-1, which_TK), ids_TK), asks_TK
