"""What a router decided and what it decided from, as one value that everything reads."""

from typing import NamedTuple

import torch
from torch import Tensor


class Choice(NamedTuple):
    """A router's answer before its rows are sorted; T tokens, E experts, K chosen."""

    ids_TK: Tensor  # int64, the chosen experts, the most wanted first
    weight_TK: Tensor  # float32, their shares in the answer
    logits_TE: Tensor  # float32
    probs_TE: Tensor  # float32, the weights' source, without any bias that only steers choice
    scores_TE: Tensor  # float32, what the choice was made from


class Rows(NamedTuple):
    """The T * K pairs of token and slot, sorted by expert and within an expert by token."""

    order_R: Tensor  # int64, token * K + slot of each row
    counts_E: Tensor  # int64, rows an expert


class Tokens(NamedTuple):
    """What is known of the tokens beside their vectors."""

    mask_T: Tensor  # bool, true for a token, false for padding
    sequence_T: Tensor  # int64, which sequence of the batch a token belongs to


class Routing(NamedTuple):
    """Rows sorted by expert, and within an expert by token; R = T * K when nothing is dropped."""

    token_R: Tensor  # int64, which token each routed row is
    slot_R: Tensor  # int64, which of the token's K choices it was: sums run in this order
    weight_R: Tensor  # float32, its share in the answer
    counts_E: Tensor  # int64, rows per expert, padding included
    logits_TE: Tensor
    probs_TE: Tensor
    scores_TE: Tensor
    mask_T: Tensor  # bool, true for a token, false for padding: statistics count no padding
    sequence_T: Tensor  # int64, which sequence of the batch a token belongs to


def sort_rows(ids_TK: Tensor, num_experts: int) -> Rows:
    flat_R = ids_TK.flatten()
    order_R = flat_R.argsort(stable=True)
    return Rows(order_R, torch.bincount(flat_R, minlength=num_experts))


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
