"""Experts by a frozen table of token ids (Hash Layers, arXiv 2106.04426)."""

import torch
from torch import Tensor

from expertly.config import Router
from expertly.mixture.routers.scores import score, weigh
from expertly.mixture.routing import Choice


def by_table(logits_TE: Tensor, ids_TK: Tensor, router: Router) -> Choice:
    """The experts that the table has for each token; weights from the gate's scores, or 1/K each
    when those are "uniform"."""
    is_chosen_TE = torch.zeros_like(logits_TE).scatter(-1, ids_TK, 1.0)
    if router.score == "uniform":
        probs_TE = is_chosen_TE / ids_TK.shape[1]
        weight_TK = probs_TE.gather(-1, ids_TK)
    else:
        probs_TE = score(logits_TE, router)
        weight_TK = weigh(probs_TE.gather(-1, ids_TK), router)
    return Choice(ids_TK, weight_TK, logits_TE, probs_TE, is_chosen_TE)
