"""What one step's rows were, layer by layer, all its batches together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expertly.mixture import Routing, measures
from expertly.parallel import Ranks


@dataclass(frozen=True)
class Load:
    """counts_E: rows an expert; token_entropy: the mean over tokens, in nats; scores_TE: what the
    tokens chose by. Padding is in none of them."""

    counts_E: Tensor
    num_tokens: int
    token_entropy: float
    scores_TE: Tensor

    @classmethod
    def of(cls, routing: Routing) -> "Load":
        return cls(
            counts_E=measures.counts(routing),
            num_tokens=int(routing.mask_T.sum()),
            token_entropy=measures.token_entropy(routing),
            scores_TE=routing.scores_TE[routing.mask_T].detach(),
        )

    def __add__(self, other: "Load") -> "Load":
        total = self.num_tokens + other.num_tokens
        entropy = self.num_tokens * self.token_entropy + other.num_tokens * other.token_entropy
        return Load(
            counts_E=self.counts_E + other.counts_E,
            num_tokens=total,
            token_entropy=entropy / max(1, total),
            scores_TE=torch.cat((self.scores_TE, other.scores_TE)),
        )

    def over(self, ranks: Ranks, *, has_scores: bool) -> "Load":
        """That of all ranks, which have as many tokens each."""
        if ranks.count == 1:
            return self
        return Load(
            counts_E=ranks.sum(self.counts_E),
            num_tokens=self.num_tokens * ranks.count,
            token_entropy=ranks.means(self.token_entropy)[0],
            scores_TE=ranks.gather(self.scores_TE) if has_scores else self.scores_TE,
        )

    @classmethod
    @torch.no_grad()
    def added(cls, loads: "Sequence[Load]", routings: Sequence[Routing]) -> "list[Load]":
        """`loads` (none before the first batch) with another batch's routings."""
        found = [cls.of(routing) for routing in routings]
        return [old + new for old, new in zip(loads, found, strict=True)] if loads else found
