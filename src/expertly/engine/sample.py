"""Logits to the next token: pure functions on logits_V, float32, in the customary order:
repetition penalty, temperature, top-k, top-p, min-p. A filtered token's logit is -inf."""

from collections.abc import Iterable

import torch
from torch import Tensor

from expertly.engine.sampling import Sampling
from expertly.errors import CheckpointError

_NEVER = float("-inf")
# sorted in no time
_FEW = 4096


def penalise(logits_V: Tensor, seen_ids: Iterable[int], penalty: float) -> Tensor:
    """Logits of the ids seen so far divided by `penalty`, or multiplied when negative, once
    however often they were seen (CTRL, arXiv 1909.05858, section 4.1)."""
    ids = torch.tensor(sorted(set(seen_ids)), dtype=torch.int64)
    seen = logits_V[ids]
    return logits_V.index_copy(0, ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def keep_top_k(logits_V: Tensor, top_k: int) -> Tensor:
    """The k largest, and whatever equals the smallest of them."""
    least = logits_V.topk(min(top_k, logits_V.shape[0])).values[-1]
    return logits_V.masked_fill(logits_V < least, _NEVER)


def _likely(probs_V: Tensor, rest: float) -> Tensor:
    """Ids but for some that are left out whatever the others are: together they are at most half of
    `rest`. What is to be sorted is few then; a whole vocabulary takes as long as a model's step."""
    least = rest / (2 * len(probs_V))
    ids_N = (probs_V >= least).nonzero().flatten()
    while least > 0 and len(ids_N) > _FEW:
        least *= 8
        if probs_V.masked_fill(probs_V >= least, 0.0).sum() > rest / 2:
            break
        ids_N = (probs_V >= least).nonzero().flatten()
    return ids_N


def keep_top_p(logits_V: Tensor, top_p: float) -> Tensor:
    """The fewest most probable tokens whose probabilities sum to top_p, at least one (nucleus
    sampling, arXiv 1904.09751); of equal ones the last."""
    probs_V = logits_V.softmax(0)
    likely_L = _likely(probs_V, 1 - top_p)
    logits_L, order_L = logits_V[likely_L].sort(stable=True)
    likely_L = likely_L[order_L]
    sums_L = probs_V.index_fill(0, likely_L, 0.0).sum() + probs_V[likely_L].cumsum(0)
    is_rest_L = sums_L <= 1 - top_p
    is_rest_L[-1] = False
    kept = torch.full_like(logits_V, _NEVER)
    return kept.index_copy_(0, likely_L[~is_rest_L], logits_L[~is_rest_L])


def keep_min_p(logits_V: Tensor, min_p: float) -> Tensor:
    """Tokens at least min_p times as probable as the most probable (arXiv 2407.01082)."""
    probs_V = logits_V.softmax(0)
    return logits_V.masked_fill(probs_V < min_p * probs_V.max(), _NEVER)


def warp(logits_V: Tensor, seen_ids: Iterable[int], sampling: Sampling) -> Tensor:
    """All that `sampling` asks for, but for the temperature when it is 0."""
    if sampling.repetition_penalty != 1:
        logits_V = penalise(logits_V, seen_ids, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits_V
    logits_V = logits_V / sampling.temperature
    if sampling.top_k:
        logits_V = keep_top_k(logits_V, sampling.top_k)
    if sampling.top_p < 1:
        logits_V = keep_top_p(logits_V, sampling.top_p)
    if sampling.min_p > 0:
        logits_V = keep_min_p(logits_V, sampling.min_p)
    return logits_V


def draw(probs_V: Tensor, generator: torch.Generator) -> int:
    """An id by its probability; what has none is never drawn."""
    # by one number, where torch.multinomial draws one a token of the vocabulary
    sums_V = probs_V.cumsum(0, dtype=torch.float64)
    share = int(torch.randint(1 << 52, (), generator=generator)) / (1 << 52)
    return int(torch.searchsorted(sums_V, sums_V[-1] * share, right=True))


def choose(
    logits_V: Tensor, seen_ids: Iterable[int], sampling: Sampling, generator: torch.Generator
) -> int:
    """The next token's id. Raises CheckpointError if the logits are not finite numbers."""
    if not torch.isfinite(logits_V.max()):
        raise CheckpointError(
            f"the model's logits reach {logits_V.max().item()}",
            hint="its weights may be damaged; compare their checksums, or try float32",
        )
    logits_V = warp(logits_V, seen_ids, sampling)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    return draw(logits_V.softmax(0), generator)
