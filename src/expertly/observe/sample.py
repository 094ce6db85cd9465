"""The beginning of each text with the experts that its tokens chose, for reading."""

from dataclasses import dataclass

import torch
from torch import Tensor

from expertly.mixture.routing import Routing
from expertly.model import Decoder


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Tokens as text, and by mixture layer the experts of each with their shares, the first choice
    first."""

    domain: str
    tokens: list[str]
    chosen: list[list[list[tuple[int, float]]]]  # layer, token, slot


@torch.inference_mode()
def read(model: Decoder, texts: dict[str, str], num_tokens: int) -> list[Reading]:
    """The first `num_tokens` tokens of each text."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    found = []
    for name, text in texts.items():
        ids = tokenizer.encode(text)[: min(num_tokens, model.config.max_context)]
        routings = model(torch.tensor([ids]), logits="last", routings=True).routings
        found.append(
            Reading(
                domain=name,
                tokens=[tokenizer.token_text(i) for i in ids],
                chosen=[_chosen(routing, len(ids)) for routing in routings or ()],
            )
        )
    return found


def _chosen(routing: Routing, num_tokens: int) -> list[list[tuple[int, float]]]:
    expert_R = torch.arange(len(routing.counts_E)).repeat_interleave(routing.counts_E)
    rows = sorted(
        zip(*map(Tensor.tolist, (routing.token_R, routing.slot_R, expert_R, routing.weight_R)),
            strict=True)
    )  # fmt: skip
    found: list[list[tuple[int, float]]] = [[] for _ in range(num_tokens)]
    for token, _, expert, weight in rows:
        found[token].append((int(expert), float(weight)))
    return found
