"""The beginning of a text, token by token: which experts each layer chose for it."""

from collections.abc import Sequence

from expertly.mixture import measures
from expertly.mixture.routing import Routing
from expertly.observe.report import TokenChoices
from expertly.text import Tokenizer


class Sample:
    """Keeps the first `size` tokens of the first window that it is shown."""

    def __init__(self, *, size: int) -> None:
        self.size = size
        self._ids: list[int] = []
        self._experts: list[list[list[tuple[int, float]]]] = []

    def keep(self, ids: Sequence[int], routings: Sequence[Routing]) -> None:
        if self._ids or not self.size:
            return
        self._ids = list(ids[: self.size])
        self._experts = [choices(routing, len(self._ids)) for routing in routings]

    def tokens(self, tokenizer: Tokenizer) -> list[TokenChoices]:
        return [
            TokenChoices(text=tokenizer.token_text(token_id), experts=[x[t] for x in self._experts])
            for t, token_id in enumerate(self._ids)
        ]


def choices(routing: Routing, num_tokens: int) -> list[list[tuple[int, float]]]:
    """Experts and weights of each of the first tokens of a routing, by slot."""
    rows = zip(
        routing.token_R.tolist(),
        routing.slot_R.tolist(),
        measures.row_experts(routing).tolist(),
        routing.weight_R.tolist(),
        strict=True,
    )
    found: list[list[tuple[int, float]]] = [[] for _ in range(num_tokens)]
    for token, _, expert, weight in sorted(row for row in rows if row[0] < num_tokens):
        found[token].append((expert, weight))
    return found
