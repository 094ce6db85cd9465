"""Definitions of what is observed: pure functions of counts, float64 out.

Shares are of rows or of tokens. With K experts a token, a share of rows is fair at 1/E and a share
of tokens (how many consult the expert) at K/E; the second is K times the first unless rows were
dropped. A row, token or expert that never occurred has shares of 0.
"""

import math

import numpy as np
import torch
from torch import Tensor, float64

_FIT_STEPS = 500


def load(rows_ME: Tensor) -> Tensor:
    """load_E: share of all rows that went to each expert; sums to 1."""
    rows_E = rows_ME.sum(dim=0)
    return _divide(rows_E, rows_E.sum())


def coactivation(pairs_EE: Tensor) -> Tensor:
    """N_ij / N_i over all pairs: of the tokens that chose i (the row), the share that chose j
    too (the column). The diagonal is 1; by chance alone a pair has (K - 1) / (E - 1)."""
    return _divide(pairs_EE, pairs_EE.diagonal().unsqueeze(1))


def lift(pairs_EE: Tensor) -> Tensor:
    """N_ij over the number by chance: 1 is no tie; 0 on the diagonal and for experts without pairs.

    By chance is quasi-independence, a_i * a_j off the diagonal with as many pairs of each expert
    as were seen (Goodman, JASA 63, 1968, 1091): plain N_i * N_j / N would count against every pair
    that a token never chooses one expert twice.
    """
    seen_EE = pairs_EE.to(float64)
    seen_EE = seen_EE - torch.diag(seen_EE.diagonal())
    row_E = seen_EE.sum(dim=1)
    factor_E = row_E.sqrt()
    for _ in range(_FIT_STEPS):
        others_E = factor_E.sum() - factor_E
        factor_E = _ratio(factor_E * row_E, others_E).sqrt()
    return _ratio(seen_EE, factor_E.unsqueeze(1) * factor_E)


def information(rows_ME: Tensor) -> float:
    """Mutual information of a row's domain (or token id) and its expert, in bits: 0 if every domain
    uses the experts alike, at most the entropy of either."""
    if not rows_ME.any():
        return 0.0
    share_ME = rows_ME.to(float64) / rows_ME.sum()
    of_each = _bits(share_ME.sum(dim=0)) + _bits(share_ME.sum(dim=1))
    return max(0.0, of_each - _bits(share_ME))


def halves_information(rows_ME: Tensor, later_ME: Tensor) -> float | None:
    """Mutual information of a row's expert and the half of its text that it is from, in bits, the
    mean over all rows: how much a domain's text differs from itself. None where a text has rows in
    one half only."""
    halves = torch.stack([rows_ME - later_ME, later_ME], dim=1)
    if not halves.any(dim=2).all():
        return None
    share_M = rows_ME.sum(dim=1).to(float64) / rows_ME.sum()
    bits_M = torch.tensor([information(half) for half in halves], dtype=float64)
    return float(share_M @ bits_M)


def domain_entropy(rows_ME: Tensor) -> float:
    """Bits of a row's domain: what `information` cannot exceed."""
    return _bits(rows_ME.sum(dim=1).to(float64) / rows_ME.sum().clamp(min=1))


def shuffled_information(rows_ME: Tensor, shuffles: int = 20, seed: int = 0) -> list[float]:
    """`information` of tables in which rows were dealt to domains at random, with as many rows of
    each domain and each expert as were seen: what a sample of this size shows by chance."""
    generator = np.random.default_rng(seed)
    return [information(_dealt(rows_ME, generator)) for _ in range(shuffles)]


def domain_row_share(rows_ME: Tensor) -> Tensor:
    """Domain specialisation: share of a domain's rows that went to each expert; fair is 1/E."""
    return _divide(rows_ME, rows_ME.sum(dim=1, keepdim=True))


def domain_token_share(rows_ME: Tensor, tokens_M: Tensor) -> Tensor:
    """Domain specialisation: share of a domain's tokens that consult each expert; fair is K/E
    (OLMoE, arXiv 2409.02060, section 5.3)."""
    return _divide(rows_ME, tokens_M.unsqueeze(1))


def vocabulary_row_share(rows_UE: Tensor) -> Tensor:
    """Vocabulary specialisation: share of a token id's rows that went to each expert; fair is
    1/E. Only ids above a floor on their frequency are tracked: of a token seen once any expert that
    saw it has the most (OLMoE, section 5.4)."""
    return _divide(rows_UE, rows_UE.sum(dim=1, keepdim=True))


def favourites(rows_UE: Tensor, uses_U: Tensor, top: int) -> list[list[int]]:
    """For each expert, the positions in U of the ids most specialised in it, best first; equal
    shares in order of use, then of id; none that never went there."""
    share_UE = vocabulary_row_share(rows_UE)
    # two stable sorts: the second keeps the order of the first among equals
    by_use_U = uses_U.sort(descending=True, stable=True).indices
    order_UE = share_UE[by_use_U].sort(dim=0, descending=True, stable=True).indices[:top]
    best_UE = by_use_U[order_UE]
    return [
        [int(u) for u in best_UE[:, expert] if rows_UE[u, expert] > 0]
        for expert in range(rows_UE.shape[1])
    ]


def _dealt(rows_ME: Tensor, generator: np.random.Generator) -> Tensor:
    if len(rows_ME) == 0:
        return rows_ME
    left = rows_ME.sum(dim=0).numpy()
    dealt = []
    for size in rows_ME.sum(dim=1).tolist():
        dealt.append(generator.multivariate_hypergeometric(left, size, method="marginals"))
        left = left - dealt[-1]
    return torch.from_numpy(np.stack(dealt))


def _bits(share: Tensor) -> float:
    return float(torch.special.entr(share).sum()) / math.log(2)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0."""
    return torch.where(denominator > 0, numerator / denominator.clamp(min=1e-300), 0.0)


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    # an empty denominator has an empty numerator
    return numerator.to(float64) / denominator.clamp(min=1).to(float64)
