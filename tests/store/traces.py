"""Traces made up for tests of policies."""

import random

from expertly.store.replay import Visit


def cyclic(num_layers: int, num_chosen: int, tokens: int) -> list[Visit]:
    """Every token uses the same experts."""
    return [(layer, tuple(range(num_chosen))) for _ in range(tokens) for layer in range(num_layers)]


def skewed(
    num_layers: int, num_experts: int, num_chosen: int, tokens: int, seed: int = 0, topic: int = 0
) -> list[Visit]:
    """Popularity falls as 1 / rank, another order a layer; drawn anew every `topic` tokens, if
    there are topics; half of the choices are the last token's."""
    rng = random.Random(seed)
    orders = [rng.sample(range(num_experts), num_experts) for _ in range(num_layers)]
    last: dict[int, tuple[int, ...]] = {}
    visits: list[Visit] = []
    for token in range(tokens):
        if topic and token % topic == 0:
            orders = [rng.sample(range(num_experts), num_experts) for _ in range(num_layers)]
        for layer, order in enumerate(orders):
            chosen = {expert for expert in last.get(layer, ()) if rng.random() < 0.4}
            while len(chosen) < num_chosen:
                rank = int(num_experts ** rng.random())
                chosen.add(order[rank - 1])
            last[layer] = tuple(sorted(chosen))
            visits.append((layer, last[layer]))
    return visits
