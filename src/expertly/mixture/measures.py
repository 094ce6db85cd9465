"""Numbers about how a router spreads its work: pure functions of a Routing or of its counts.

Computed in float64 and given as Python numbers. Padding counts in nothing. Where no row was
routed at all nothing is out of balance, so each measure takes the value of an even load.
"""

import math

import torch
from torch import Tensor

from expertly import kernels
from expertly.mixture.routing import Routing


def row_experts(routing: Routing) -> Tensor:
    """expert_R, int64: the expert of each routed row, padding included."""
    experts_E = torch.arange(len(routing.counts_E), device=routing.counts_E.device)
    # the size is known: a GPU need not be waited for
    size = len(routing.token_R)
    return torch.repeat_interleave(experts_E, routing.counts_E, output_size=size)


def counts(routing: Routing) -> Tensor:
    """counts_E, int64: rows routed to each expert, those of padding tokens left out."""
    is_token_R = routing.mask_T[routing.token_R]
    return kernels.count(row_experts(routing), len(routing.counts_E), is_token_R)


def max_violation(counts_E: Tensor) -> float:
    """MaxVio = (largest load - mean load) / mean load (arXiv 2408.15664): 0 is even, E - 1 is
    everything at one expert; 0.0 without rows."""
    load_E = _float64(counts_E)
    total = load_E.sum().item()
    return load_E.max().item() * len(load_E) / total - 1 if total else 0.0


def load_entropy(counts_E: Tensor) -> float:
    """Entropy of the shares of load divided by ln E: 1 is even, 0 is everything at one expert;
    1.0 without rows or with a single expert."""
    load_E = _float64(counts_E)
    total = load_E.sum()
    if total == 0 or len(load_E) == 1:
        return 1.0
    entropy: float = torch.special.entr(load_E / total).sum().item()
    return min(1.0, entropy / math.log(len(load_E)))


def token_entropy(routing: Routing) -> float:
    """Mean over tokens of the entropy of a token's probabilities, in nats: 0 is a router sure of
    one expert, ln E one that does not know.

    Scores that do not sum to 1 (sigmoids) are divided by their sum first; a token whose scores
    are all 0 counts as sure. 0.0 without tokens.
    """
    probs_TE = routing.probs_TE[routing.mask_T].to(torch.float64)
    if len(probs_TE) == 0:
        return 0.0
    sum_T1 = probs_TE.sum(dim=1, keepdim=True)
    share_TE = probs_TE / torch.where(sum_T1 == 0, 1.0, sum_T1)
    return float(torch.special.entr(share_TE).sum(dim=1).mean())


def gini(counts_E: Tensor) -> float:
    """Gini coefficient of the load, sum over pairs |n_i - n_j| / (2 E sum n): 0 is even,
    1 - 1/E is everything at one expert; 0.0 without rows."""
    load_E = _float64(counts_E).sort().values
    total = load_E.sum().item()
    if total == 0:
        return 0.0
    size = len(load_E)
    rank_E = torch.arange(1, size + 1, dtype=torch.float64)
    weighted: float = (rank_E * load_E).sum().item()
    return max(0.0, 2 * weighted / (size * total) - (size + 1) / size)


def dead_experts(counts_E: Tensor, floor: float = 0.01) -> list[int]:
    """Experts whose share of the rows is below `floor` times the fair share 1/E, in order;
    none without rows."""
    load_E = _float64(counts_E)
    is_dead_E = load_E * len(load_E) < floor * load_E.sum()
    return [int(i) for i in is_dead_E.nonzero().flatten()]


def consecutive_repeats(routing: Routing) -> tuple[int, int]:
    """Tokens whose first expert (slot 0) is that of the token before, and tokens that have such
    a token before them; chance alone gives a ratio of 1/E.

    Both tokens must be neighbours in one sequence, neither of them padding, each with a slot 0.
    """
    first_T = torch.full_like(routing.sequence_T, -1)
    is_first_R = routing.slot_R == 0
    first_T[routing.token_R[is_first_R]] = row_experts(routing)[is_first_R]
    is_known_T = routing.mask_T & (first_T >= 0)
    same_sequence = routing.sequence_T[1:] == routing.sequence_T[:-1]
    is_pair = is_known_T[1:] & is_known_T[:-1] & same_sequence
    is_repeat = is_pair & (first_T[1:] == first_T[:-1])
    return int(is_repeat.sum()), int(is_pair.sum())


def _float64(counts_E: Tensor) -> Tensor:
    return counts_E.detach().to("cpu", torch.float64)
