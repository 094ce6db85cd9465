"""Counts of what the router of one mixture layer did: integers, so that windows simply add up.

Padding counts in nothing. Memory does not grow with the text: domains, pairs of experts, and only
those token ids that the caller asked to track.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from expertly.mixture import measures
from expertly.mixture.routing import Routing


class LayerCounts(NamedTuple):
    """E experts, M domains, U tracked token ids; int64 tensors in main memory."""

    rows_ME: Tensor  # rows of the domain's tokens that went to the expert
    later_ME: Tensor  # those of them in the second half of the domain's text
    tokens_M: Tensor  # tokens of the domain
    pairs_EE: Tensor  # tokens that chose both experts; on the diagonal, tokens that chose the one
    rows_UE: Tensor  # rows of the tracked id that went to the expert
    uses_U: Tensor  # tokens with the tracked id
    repeats: int  # tokens whose first expert is that of the token before
    neighbours: int  # tokens that have a token before them in the same window
    entropy_sum: float  # of the tokens' probabilities, in nats

    def plus(self, other: "LayerCounts") -> "LayerCounts":
        return LayerCounts(
            rows_ME=self.rows_ME + other.rows_ME,
            later_ME=self.later_ME + other.later_ME,
            tokens_M=self.tokens_M + other.tokens_M,
            pairs_EE=self.pairs_EE + other.pairs_EE,
            rows_UE=self.rows_UE + other.rows_UE,
            uses_U=self.uses_U + other.uses_U,
            repeats=self.repeats + other.repeats,
            neighbours=self.neighbours + other.neighbours,
            entropy_sum=self.entropy_sum + other.entropy_sum,
        )


def nothing(num_experts: int, num_domains: int, num_tracked: int) -> LayerCounts:
    """Counts of no token at all, to start a sum from."""
    return LayerCounts(
        rows_ME=_zeros(num_domains, num_experts),
        later_ME=_zeros(num_domains, num_experts),
        tokens_M=_zeros(num_domains),
        pairs_EE=_zeros(num_experts, num_experts),
        rows_UE=_zeros(num_tracked, num_experts),
        uses_U=_zeros(num_tracked),
        repeats=0,
        neighbours=0,
        entropy_sum=0.0,
    )


def count(
    ids_T: Tensor,
    routing: Routing,
    *,
    domain: int,
    num_domains: int,
    tracked_U: Tensor,
    is_later: bool = False,
) -> LayerCounts:
    """Counts of one window of text of one domain, of its second half if `is_later`.

    ids_T are its token ids, tracked_U the ids to keep apart, ascending and without doubles.
    """
    routing = Routing(*(field.cpu() for field in routing))
    num_experts, num_tokens = len(routing.counts_E), int(routing.mask_T.sum())
    is_token_R = routing.mask_T[routing.token_R]
    expert_R = measures.row_experts(routing)[is_token_R]
    token_R = routing.token_R[is_token_R]
    rows_ME, tokens_M = _zeros(num_domains, num_experts), _zeros(num_domains)
    rows_ME[domain] = torch.bincount(expert_R, minlength=num_experts)
    tokens_M[domain] = num_tokens
    position_T = _positions(ids_T.cpu(), tracked_U)
    repeats, neighbours = measures.consecutive_repeats(routing)
    return LayerCounts(
        rows_ME=rows_ME,
        later_ME=rows_ME * is_later,
        tokens_M=tokens_M,
        pairs_EE=_pairs(token_R, expert_R, len(ids_T), num_experts),
        rows_UE=_rows_of_ids(position_T[token_R], expert_R, len(tracked_U), num_experts),
        uses_U=_bincount(position_T[routing.mask_T], len(tracked_U)),
        repeats=repeats,
        neighbours=neighbours,
        entropy_sum=measures.token_entropy(routing) * num_tokens,
    )


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _positions(ids_T: Tensor, tracked_U: Tensor) -> Tensor:
    """Where each id stands in tracked_U; -1 if it is not tracked."""
    if len(tracked_U) == 0:
        return torch.full_like(ids_T, -1)
    position_T = torch.searchsorted(tracked_U, ids_T).clamp(max=len(tracked_U) - 1)
    return torch.where(tracked_U[position_T] == ids_T, position_T, -1)


def _pairs(token_R: Tensor, expert_R: Tensor, num_tokens: int, num_experts: int) -> Tensor:
    # ones and sums below 2**53, so float64 counts exactly
    chosen_TE = torch.zeros(num_tokens, num_experts, dtype=torch.float64)
    chosen_TE[token_R, expert_R] = 1.0
    return (chosen_TE.T @ chosen_TE).to(torch.int64)


def _rows_of_ids(
    position_R: Tensor, expert_R: Tensor, num_tracked: int, num_experts: int
) -> Tensor:
    cell_R = torch.where(position_R < 0, -1, position_R * num_experts + expert_R)
    return _bincount(cell_R, num_tracked * num_experts).reshape(num_tracked, num_experts)


def _bincount(positions: Tensor, length: int) -> Tensor:
    """How often each of 0..length-1 occurs; -1 is left out."""
    return torch.bincount(positions[positions >= 0], minlength=length)
