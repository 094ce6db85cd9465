"""Logits to the next token: pure functions on logits_V, float32, in the customary order:
repetition penalty, temperature, top-k, top-p, min-p. A filtered token's logit is -inf.

In numpy, as torch's threads go on spinning for a while after each operation on a whole vocabulary,
on the cores that the next step is to run on: that cost a third of the tokens a second.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from expertly.engine.sampling import Sampling
from expertly.errors import CheckpointError

Floats = NDArray[np.float32]
_NEVER = np.float32("-inf")
# sorted in no time
_FEW = 4096


def penalise(logits_V: Floats, seen_ids: Iterable[int], penalty: float) -> Floats:
    """Logits of the ids seen so far divided by `penalty`, or multiplied when negative, once
    however often they were seen (CTRL, arXiv 1909.05858, section 4.1)."""
    ids = np.array(sorted(set(seen_ids)), np.int64)
    seen, found = logits_V[ids], logits_V.copy()
    found[ids] = np.where(seen < 0, seen * penalty, seen / penalty)
    return found


def temper(logits_V: Floats, temperature: float) -> Floats:
    """Divided by a temperature above 0. By one so small that they overflow, their distances from
    the largest are: its own stays 0, and it alone is left."""
    divisor = max(np.float32(temperature), np.finfo(np.float32).tiny)
    with np.errstate(over="ignore"):
        tempered_V = logits_V / divisor
        if np.isinf(tempered_V.max()):
            tempered_V = (logits_V - logits_V.max()) / divisor
    return tempered_V


def keep_top_k(logits_V: Floats, top_k: int) -> Floats:
    """The k largest, and whatever equals the smallest of them."""
    # one thread of torch's, and a quarter of numpy's time
    least = torch.from_numpy(logits_V).topk(min(top_k, len(logits_V))).values[-1].item()
    return np.where(logits_V < np.float32(least), _NEVER, logits_V)


def softmax(logits_V: Floats) -> Floats:
    powers_V = np.exp(logits_V - logits_V.max())
    probs_V: Floats = powers_V / powers_V.sum()
    return probs_V


def _likely(probs_V: Floats, rest: float) -> NDArray[np.int64]:
    """Ids but for some that are left out whatever the others are: together they are at most half of
    `rest`. What is to be sorted is few then; a whole vocabulary takes as long as a model's step."""
    least = rest / (2 * len(probs_V))
    ids_N = np.flatnonzero(probs_V >= least)
    while least > 0 and len(ids_N) > _FEW:
        least *= 8
        if np.where(probs_V < least, probs_V, 0).sum() > rest / 2:
            break
        ids_N = np.flatnonzero(probs_V >= least)
    return ids_N


def keep_top_p(logits_V: Floats, top_p: float) -> Floats:
    """The fewest most probable tokens whose probabilities sum to top_p, at least one (nucleus
    sampling, arXiv 1904.09751); of equal ones the last."""
    probs_V = softmax(logits_V)
    likely_L = _likely(probs_V, 1 - top_p)
    likely_L = likely_L[np.argsort(logits_V[likely_L], kind="stable")]
    probs_L = probs_V[likely_L]
    probs_V[likely_L] = 0
    is_kept_L = probs_V.sum() + probs_L.cumsum() > 1 - top_p
    is_kept_L[-1] = True
    kept_N = likely_L[is_kept_L]
    found_V = np.full_like(logits_V, _NEVER)
    found_V[kept_N] = logits_V[kept_N]
    return found_V


def keep_min_p(logits_V: Floats, min_p: float) -> Floats:
    """Tokens at least min_p times as probable as the most probable (arXiv 2407.01082)."""
    probs_V = softmax(logits_V)
    return np.where(probs_V < min_p * probs_V.max(), _NEVER, logits_V)


def warp(logits_V: Floats, seen_ids: Iterable[int], sampling: Sampling) -> Floats:
    """All that `sampling` asks for, but for the temperature when it is 0."""
    if sampling.repetition_penalty != 1:
        logits_V = penalise(logits_V, seen_ids, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits_V
    logits_V = temper(logits_V, sampling.temperature)
    if sampling.top_k:
        logits_V = keep_top_k(logits_V, sampling.top_k)
    if sampling.top_p < 1:
        logits_V = keep_top_p(logits_V, sampling.top_p)
    if sampling.min_p > 0:
        logits_V = keep_min_p(logits_V, sampling.min_p)
    return logits_V


def draw(probs_V: Floats, generator: torch.Generator) -> int:
    """An id by its probability; what has none is never drawn."""
    sums_V = probs_V.astype(np.float64).cumsum()
    share = int(torch.randint(1 << 52, (), generator=generator)) / (1 << 52)
    return int(np.searchsorted(sums_V, sums_V[-1] * share, side="right"))


def choose(
    logits_V: Floats, seen_ids: Iterable[int], sampling: Sampling, generator: torch.Generator
) -> int:
    """The next token's id. Raises CheckpointError if the logits are not finite numbers."""
    if not np.isfinite(logits_V.max()):
        raise CheckpointError(
            f"the model's logits reach {logits_V.max()}",
            hint="its weights may be damaged; compare their checksums, or try float32",
        )
    logits_V = warp(logits_V, seen_ids, sampling)
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    return draw(softmax(logits_V), generator)
