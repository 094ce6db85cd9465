"""Routings written by hand or drawn at random, for tests of what reads them."""

import torch
from hypothesis import strategies as st

from expertly.mixture.routing import Routing


def routing_of(
    chosen: list[list[int]],
    num_experts: int,
    mask: list[bool] | None = None,
    sequence: list[int] | None = None,
    probs: list[list[float]] | None = None,
) -> Routing:
    """A Routing in which token t chose chosen[t], the most wanted first."""
    num_tokens = len(chosen)
    rows = sorted((e, t, k) for t, experts in enumerate(chosen) for k, e in enumerate(experts))
    even = [[1 / num_experts] * num_experts] * num_tokens
    probs_TE = torch.tensor(probs or even).reshape(num_tokens, num_experts)
    return Routing(
        token_R=torch.tensor([t for _, t, _ in rows], dtype=torch.int64),
        slot_R=torch.tensor([k for _, _, k in rows], dtype=torch.int64),
        weight_R=torch.ones(len(rows)),
        counts_E=torch.tensor([sum(e == i for e, _, _ in rows) for i in range(num_experts)]),
        logits_TE=probs_TE.log(),
        probs_TE=probs_TE,
        scores_TE=probs_TE,
        mask_T=torch.tensor(mask or [True] * num_tokens, dtype=torch.bool),
        sequence_T=torch.tensor(sequence or [0] * num_tokens, dtype=torch.int64),
    )


@st.composite
def windows(
    draw: st.DrawFn,
) -> tuple[int, list[tuple[int, list[list[int]], list[int], list[bool]]]]:
    """A number of experts, and windows: domain, experts of each token, token ids, mask."""
    num_experts = draw(st.integers(2, 6))
    num_chosen = draw(st.integers(1, num_experts))
    experts = st.permutations(range(num_experts)).map(lambda order: order[:num_chosen])
    found = []
    for _ in range(draw(st.integers(1, 4))):
        length = draw(st.integers(1, 6))
        exactly = {"min_size": length, "max_size": length}
        found.append(
            (
                draw(st.integers(0, 2)),
                draw(st.lists(experts, **exactly)),
                draw(st.lists(st.integers(0, 4), **exactly)),
                draw(st.lists(st.booleans(), **exactly)),
            )
        )
    return num_experts, found
