"""A least number of rows an expert, taken from those that have more: a pure function."""

import torch
from torch import Tensor


def fill(ids_TK: Tensor, probs_TE: Tensor, mask_T: Tensor, least: int, num_experts: int) -> Tensor:
    """ids_TK in which each of the first `num_experts` has `least` rows, if there are so many to
    share out; zero experts, which come after them, have no such claim.

    An expert that lacks rows takes its most probable tokens, which give up the expert that they
    want least (their last slot) as long as that one keeps `least` rows itself. Padding neither
    counts nor moves; a token never has an expert twice.
    """
    ids_TK, probs_TE = ids_TK.clone(), probs_TE.detach()
    rows_E = torch.bincount(ids_TK[mask_T].flatten(), minlength=probs_TE.shape[1])
    # the poorest first: what they take is nobody's who lacks some
    for expert in rows_E[:num_experts].argsort(stable=True).tolist():
        if rows_E[expert] >= least:
            break
        _take(ids_TK, probs_TE[:, expert], mask_T, rows_E, expert, least)
    return ids_TK


def _take(
    ids_TK: Tensor, probs_T: Tensor, mask_T: Tensor, rows_E: Tensor, expert: int, least: int
) -> None:
    """Row by row, as each changes what the next one may take."""
    can_T = mask_T & (ids_TK != expert).all(-1)
    for token in probs_T.argsort(descending=True, stable=True).tolist():
        if rows_E[expert] >= least:
            return
        given_up = int(ids_TK[token, -1])
        if can_T[token] and rows_E[given_up] > least:
            ids_TK[token, -1] = expert
            rows_E[given_up] -= 1
            rows_E[expert] += 1
