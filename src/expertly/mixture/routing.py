"""What a router decided and what it decided from, as one value that everything reads."""

from typing import NamedTuple

from torch import Tensor


class Choice(NamedTuple):
    """A router's answer before its rows are sorted; T tokens, E experts, K chosen."""

    ids_TK: Tensor  # int64, the chosen experts, the most wanted first
    weight_TK: Tensor  # float32, their shares in the answer
    logits_TE: Tensor  # float32
    probs_TE: Tensor  # float32, the weights' source, without any bias that only steers choice
    scores_TE: Tensor  # float32, what the choice was made from


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
