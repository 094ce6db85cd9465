"""Policies on what the bundled model chooses on texts that it was not trained on."""

import pytest
import torch

from expertly.checkpoint import load
from expertly.store.policies import Lru
from expertly.store.replay import Visit, belady, policies, replay, working_set
from expertly.text import corpora

NUM_EXPERTS, NUM_CHOSEN = [32] * 4, [4] * 4
TOKENS = 1024


@pytest.fixture(scope="module", params=["drama", "python", "swahili"])
def trace(request: pytest.FixtureRequest) -> list[Visit]:
    model = load("", "native")
    ids = model.tokenizer.encode(corpora.held_out_text(request.param)[: 8 * TOKENS])
    visits: list[Visit] = []
    for start in range(0, TOKENS, 256):
        routings = model(torch.tensor([ids[start : start + 256]]), routings=True).routings
        for token in range(256):
            for layer, routing in enumerate(routings):
                experts = torch.arange(32).repeat_interleave(routing.counts_E)
                visits.append((layer, tuple(experts[routing.token_R == token].tolist())))
    return visits


@pytest.mark.parametrize("percent", [10, 20, 30, 40, 50])
def test_the_default_misses_at_most_a_hundredth_more_than_the_best_other(trace, percent) -> None:
    capacity = round(percent / 100 * sum(NUM_EXPERTS))
    made = policies(NUM_EXPERTS, NUM_CHOSEN, capacity)
    misses = {name: replay(trace, make(), capacity).misses for name, make in made.items()}
    assert misses["expected"] <= 1.01 * min(misses[name] for name in ("lru", "lfu", "decayed"))
    assert misses["expected"] >= belady(trace, capacity).misses


def test_below_the_cliff_lru_collapses_and_the_default_does_not(trace) -> None:
    capacity = working_set(NUM_CHOSEN) - 4
    ours = replay(trace, policies(NUM_EXPERTS, NUM_CHOSEN, capacity)["expected"](), capacity)
    assert replay(trace, Lru(), capacity).hit_rate < 0.05 < 0.15 < ours.hit_rate
