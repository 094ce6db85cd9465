"""Definitions of what is observed: pure functions of counts, float64 out.

Shares are of rows or of tokens. With K experts a token, a share of rows is fair at 1/E and a share
of tokens (how many consult the expert) at K/E; the second is K times the first unless rows were
dropped. A row, token or expert that never occurred has shares of 0.
"""

from torch import Tensor, float64


def load(rows_ME: Tensor) -> Tensor:
    """load_E: share of all rows that went to each expert; sums to 1."""
    rows_E = rows_ME.sum(dim=0)
    return _divide(rows_E, rows_E.sum())


def coactivation(pairs_EE: Tensor) -> Tensor:
    """N_ij / N_i over all pairs: of the tokens that chose i (the row), the share that chose j
    too (the column). The diagonal is 1; by chance alone a pair has (K - 1) / (E - 1)."""
    return _divide(pairs_EE, pairs_EE.diagonal().unsqueeze(1))


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


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    # an empty denominator has an empty numerator
    return numerator.to(float64) / denominator.clamp(min=1).to(float64)
