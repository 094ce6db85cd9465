"""Routing for weights that have none: choices drawn as real routers were seen to choose, or taken
from a recorded trace, in place of those of random weights, which use all experts alike.

Two habits make a cache of experts work: some experts are chosen more than others, and a token
chooses much of what the token before it chose. Popularity falls as 1 / rank ** skew, in an order of
each layer's own; an expert of the previous token is kept with probability `stay`, and what then is
missing is drawn by popularity, no expert twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expertly.errors import InputError
from expertly.store.trace import Choices

Numbers = NDArray[np.int32]
Floats = NDArray[np.float32]
# tokens of a table; then it begins again
TABLE_TOKENS = 8192
# streams begin in different places of a table
_APART = 1009
_MOST_SKEW = 4.0
_DRAWS = 4096


@dataclass(frozen=True, kw_only=True)
class Habits:
    """`skew`: 0 uses all experts alike. `stay`: 0 draws every token anew."""

    skew: float
    stay: float

    def __post_init__(self) -> None:
        if not (0.0 <= self.skew <= _MOST_SKEW and 0.0 <= self.stay < 1.0):
            raise InputError(
                f"routing of skew {self.skew} and stay {self.stay} cannot be drawn",
                hint=f"a skew is 0 to {_MOST_SKEW:.0f}, a stay 0 to below 1",
            )


# medians over the bundled model's traces of the five packaged texts
MEASURED = Habits(skew=0.74, stay=0.11)


class Tabled:
    """A choice by layer, sequence and position, whatever the router says: a decoder's `rechoose`.

    `weights`: of the same tables; the router's own unless given."""

    def __init__(
        self, ids: Mapping[int, Numbers], weights: Mapping[int, Floats] | None = None
    ) -> None:
        self._ids = ids
        self._weights = weights

    def __call__(
        self,
        layer: int,
        sequence_T: NDArray[np.int64],
        position_T: NDArray[np.int64],
        ids_TK: Numbers,
        weight_TK: Floats,
        logits_TE: Floats,
    ) -> tuple[Numbers, Floats]:
        table = self._ids[layer]
        row_T = (position_T + _APART * sequence_T) % len(table)
        weights = weight_TK.copy() if self._weights is None else self._weights[layer][row_T]
        return table[row_T], weights


def drawn(
    habits: Habits,
    num_experts: Sequence[int],
    num_chosen: Sequence[int],
    *,
    tokens: int = TABLE_TOKENS,
    seed: int = 0,
) -> Tabled:
    """`num_experts` and `num_chosen` of each layer, 0 of one without a mixture."""
    rng = np.random.default_rng(seed)
    tables = {
        layer: _chain(habits, E, K, tokens, rng)
        for layer, (E, K) in enumerate(zip(num_experts, num_chosen, strict=True))
        if E
    }
    return Tabled(tables)


def _chain(
    habits: Habits, num_experts: int, num_chosen: int, tokens: int, rng: np.random.Generator
) -> Numbers:
    """ids (tokens, K): each token's from the one before it."""
    log_E = rng.permutation(_log_popularity(habits.skew, num_experts))
    # the largest of log p + Gumbel noise are a draw by p without replacement
    keys = log_E + rng.gumbel(size=(tokens, num_experts))
    stays = rng.random((tokens, num_chosen)) < habits.stay
    ids = np.empty((tokens, num_chosen), np.int32)
    last = np.empty(0, np.int32)
    for token in range(tokens):
        if token:
            keys[token, last[stays[token]]] = np.inf
        last = np.argpartition(-keys[token], num_chosen - 1)[:num_chosen].astype(np.int32)
        ids[token] = rng.permutation(last)
    return ids


def _log_popularity(skew: float, num_experts: int) -> NDArray[np.float64]:
    return -skew * np.log(np.arange(1, num_experts + 1))


def recorded(choices: Choices, num_experts: Sequence[int], num_chosen: Sequence[int]) -> Tabled:
    """The choices of a trace, token by token, with their weights. Raises InputError for a trace of
    a model of another shape."""
    about = choices.about
    own = tuple(num_experts), tuple(num_chosen)
    if (about.num_experts, about.num_chosen) != own:
        raise InputError(
            f"the trace is of {_shape(about.num_experts, about.num_chosen)}, the model has "
            f"{_shape(*own)}",
            hint="--routing like:FILE draws choices with the trace's skew and repetition",
        )
    return Tabled(choices.ids, choices.weights)


def _shape(num_experts: Sequence[int], num_chosen: Sequence[int]) -> str:
    layers = [(K, E) for K, E in zip(num_chosen, num_experts, strict=True) if E]
    most = max(layers, default=(0, 0))
    return f"{len(layers)} layers of {most[0]} of {most[1]} experts"


def habits_of(choices: Choices) -> Habits:
    """What a trace shows: the means over its layers.

    `stay` solves o = stay + (1 - stay) * c, with o the share of a token's experts that are the
    previous token's too, and c the same of two tokens drawn apart, sum of f_e ** 2 / K for an
    expert in a share f_e of the tokens; `skew` is that whose draws have the same c.
    """
    skews, stays = [], []
    for layer, ids_NK in choices.ids.items():
        num_experts, num_chosen = choices.about.num_experts[layer], ids_NK.shape[1]
        marks_NE = np.zeros((len(ids_NK), num_experts), bool)
        np.put_along_axis(marks_NE, ids_NK, True, axis=1)
        chance = float((marks_NE.mean(0) ** 2).sum() / num_chosen)
        overlap = float((marks_NE[1:] & marks_NE[:-1]).sum(1).mean() / num_chosen)
        stays.append(max(0.0, (overlap - chance) / (1.0 - chance)) if chance < 1.0 else 0.0)
        skews.append(_skew_of(chance, num_experts, num_chosen))
    return Habits(skew=float(np.mean(skews)), stay=min(float(np.mean(stays)), 0.99))


def _skew_of(chance: float, num_experts: int, num_chosen: int) -> float:
    """By bisection: the more skewed, the likelier two draws meet."""
    noise = np.random.default_rng(0).gumbel(size=(_DRAWS, num_experts))
    low, high = 0.0, _MOST_SKEW
    for _ in range(20):
        middle = (low + high) / 2
        keys = _log_popularity(middle, num_experts) + noise
        chosen = np.argpartition(-keys, num_chosen - 1, axis=1)[:, :num_chosen]
        shares = np.bincount(chosen.ravel(), minlength=num_experts) / _DRAWS
        if float((shares**2).sum() / num_chosen) < chance:
            low = middle
        else:
            high = middle
    return low
