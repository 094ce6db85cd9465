"""The rules that turn router logits into a choice of experts: pure functions, always float32."""

import torch
from torch import Tensor

from expertly.config import Router
from expertly.mixture.routing import Choice


def choose(logits_TE: Tensor, num_chosen: int, router: Router) -> Choice:
    """The choice that `router` makes from `logits_TE` (float32); see `config.Router`."""
    if router.rule == "sparsemixer":
        return _sparsemixer(logits_TE, num_chosen, router.jitter)
    return _softmax(logits_TE, num_chosen, router.norm_p)


def _softmax(logits_TE: Tensor, num_chosen: int, norm_p: float | None) -> Choice:
    """Softmax over all experts, the K largest; divided by their p-norm if there is a p."""
    probs_TE = logits_TE.softmax(-1)
    weight_TK, ids_TK = probs_TE.topk(num_chosen, dim=-1)
    if norm_p == 1.0:
        weight_TK = weight_TK / weight_TK.sum(-1, keepdim=True)
    elif norm_p is not None:
        weight_TK = weight_TK / torch.linalg.vector_norm(weight_TK, norm_p, dim=-1, keepdim=True)
    return Choice(ids_TK, weight_TK, logits_TE, probs_TE, probs_TE)


def _sparsemixer(logits_TE: Tensor, num_chosen: int, jitter: float) -> Choice:
    """Inference rule of SparseMixer-v2 (GRIN, arXiv 2409.12136, section 2.2): the largest logit,
    weighed by a softmax over those within 2 * jitter of it; then the same without that expert."""
    left_TE = logits_TE
    ids, weights = [], []
    for _ in range(num_chosen):
        top_T1, id_T1 = left_TE.max(-1, keepdim=True)
        # the gap is measured from the logits as they were, also for experts already taken
        gap_TE = (top_T1 - logits_TE) / logits_TE.abs().clamp(min=top_T1)
        probs_TE = left_TE.masked_fill(gap_TE > 2 * jitter, float("-inf")).softmax(-1)
        ids.append(id_T1)
        weights.append(probs_TE.gather(-1, id_T1))
        left_TE = left_TE.scatter(-1, id_T1, float("-inf"))
    return Choice(
        torch.cat(ids, -1), torch.cat(weights, -1), logits_TE, logits_TE.softmax(-1), logits_TE
    )
