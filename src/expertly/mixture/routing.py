"""What a router decided and what it decided from, as one value that everything reads."""

from typing import NamedTuple

import torch
from torch import Tensor

from expertly import kernels


class Choice(NamedTuple):
    """A router's answer before its rows are sorted; T tokens, E experts and zero experts, K
    chosen: the most that a token has where it varies."""

    ids_TK: Tensor  # int64, the chosen experts, the most wanted first
    weight_TK: Tensor  # float32, their shares in the answer
    logits_TE: Tensor  # float32
    probs_TE: Tensor  # float32, the weights' source, without any bias that only steers choice
    scores_TE: Tensor  # float32, what the choice was made from
    kept_TK: Tensor | None = None  # bool, false for slots that are no row; None: all are


class Rows(NamedTuple):
    """Pairs of token and slot, all T * K or those that are kept, sorted by expert and within an
    expert by token."""

    order_R: Tensor  # int64, token * K + slot of each row
    counts_E: Tensor  # int64, rows an expert


class Tokens(NamedTuple):
    """What is known of the tokens beside their vectors."""

    mask_T: Tensor  # bool, true for a token, false for padding
    sequence_T: Tensor  # int64, which sequence of the batch a token belongs to
    ids_T: Tensor | None = None  # int64, token ids, for routers that go by them


class Routing(NamedTuple):
    """Rows sorted by expert, and within an expert by token; R = T * K when nothing is dropped.

    Zero experts count as experts here: the last of E."""

    token_R: Tensor  # int64, which token each routed row is
    slot_R: Tensor  # int64, which of the token's K choices it was: sums run in this order
    weight_R: Tensor  # float32, its share in the answer
    counts_E: Tensor  # int64, rows per expert, padding included
    logits_TE: Tensor
    probs_TE: Tensor
    scores_TE: Tensor
    mask_T: Tensor  # bool, true for a token, false for padding: statistics count no padding
    sequence_T: Tensor  # int64, which sequence of the batch a token belongs to


def all_tokens(logits_TE: Tensor) -> Tokens:
    """Tokens of one sequence without padding."""
    sequence_T = torch.zeros(logits_TE.shape[0], dtype=torch.int64, device=logits_TE.device)
    return Tokens(sequence_T == 0, sequence_T)


def of_table(is_chosen_TE: Tensor, wanted_TE: Tensor) -> tuple[Tensor, Tensor]:
    """ids_TK and kept_TK of a choice with as many experts a token as the table marks: the most
    wanted first, K the largest number of any token."""
    key_TE = wanted_TE.detach().masked_fill(~is_chosen_TE, -1.0)
    num_slots = max(1, int(is_chosen_TE.sum(-1).max())) if len(is_chosen_TE) else 1
    ids_TK = key_TE.argsort(dim=-1, descending=True, stable=True)[:, :num_slots]
    return ids_TK, is_chosen_TE.gather(-1, ids_TK)


def sort_rows(ids_TK: Tensor, num_experts: int, kept_TK: Tensor | None = None) -> Rows:
    flat_R = ids_TK.flatten()
    if kept_TK is None:
        return Rows(*kernels.sort_places(flat_R, num_experts))
    place_R = kept_TK.flatten().nonzero().flatten()
    order_R, counts_E = kernels.sort_places(flat_R[place_R], num_experts)
    return Rows(place_R[order_R], counts_E)


def to_routing(choice: Choice, rows: Rows, tokens: Tokens) -> Routing:
    num_chosen = choice.ids_TK.shape[1]
    return Routing(
        token_R=rows.order_R // num_chosen,
        slot_R=rows.order_R % num_chosen,
        weight_R=choice.weight_TK.flatten()[rows.order_R],
        counts_E=rows.counts_E,
        logits_TE=choice.logits_TE,
        probs_TE=choice.probs_TE,
        scores_TE=choice.scores_TE,
        mask_T=tokens.mask_T,
        sequence_T=tokens.sequence_T,
    )
