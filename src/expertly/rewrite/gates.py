"""Router rows made of prompts: a row points from what should not reach an expert to what should.

Each layer's row is the mean of what enters its feed-forward over positive prompts, less the same
over negative ones, scaled to length one. Every prompt counts the same, and padding in nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from expertly.errors import InputError
from expertly.model import Decoder
from expertly.rewrite.merge_recipe import MergeExpert

_BATCH = 8


def prompt_gates(model: Decoder, experts: Sequence[MergeExpert]) -> Tensor:
    """gates_LED, float32: a row a layer and expert. Raises InputError for a model without a
    tokenizer, a prompt without tokens or longer than the context, and prompts that cancel out."""
    rows = [_row(model, expert) for expert in experts]
    return torch.stack(rows, dim=1)


def _row(model: Decoder, expert: MergeExpert) -> Tensor:
    row_LD = _mean(model, expert.positive)
    if expert.negative:
        row_LD = row_LD - _mean(model, expert.negative)
    length_L1: Tensor = torch.linalg.vector_norm(row_LD, dim=-1, keepdim=True)
    if not bool((length_L1 > 0).all()):
        raise InputError(
            f"the prompts of the expert {expert.source} cancel out",
            hint="its positive and its negative prompts must differ",
        )
    return torch.div(row_LD, length_L1).float()


def _mean(model: Decoder, prompts: Sequence[str]) -> Tensor:
    """mean_LD over prompts of what enters each feed-forward."""
    ids = [_encode(model, prompt) for prompt in prompts]
    means = [
        mean_inputs(model, *_padded(ids[first : first + _BATCH]))
        for first in range(0, len(ids), _BATCH)
    ]
    return torch.cat(means).mean(0)


def _encode(model: Decoder, prompt: str) -> list[int]:
    if model.tokenizer is None:
        raise InputError(
            "the base has no tokenizer, and gates are made of prompts",
            hint='put its tokenizer.json into its folder, or use gate = "random"',
        )
    ids = model.tokenizer.encode(prompt)
    if not ids:
        raise InputError(f"the prompt {prompt!r} has no tokens", hint="give a longer one")
    return ids


def _padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """ids_BS and mask_BS, padded on the left."""
    size = max(map(len, prompts))
    ids_BS = torch.zeros(len(prompts), size, dtype=torch.int64)
    mask_BS = torch.zeros(len(prompts), size, dtype=torch.bool)
    for row, ids in enumerate(prompts):
        ids_BS[row, size - len(ids) :] = torch.tensor(ids)
        mask_BS[row, size - len(ids) :] = True
    return ids_BS, mask_BS


def mean_inputs(model: Decoder, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """mean_BLD (float64): each sequence's mean over its tokens of what enters each layer's
    feed-forward, the norm before it included: what a router there would see."""
    found: list[Tensor] = []

    def keep(x_BSD: Tensor) -> None:
        weight_BS1 = mask_BS[..., None].double()
        # padding may hold anything, not only numbers
        x_BSD = x_BSD.view(*mask_BS.shape, -1).double().masked_fill(~mask_BS[..., None], 0.0)
        found.append(x_BSD.sum(1) / weight_BS1.sum(1))

    with torch.inference_mode(), _watching(model, keep):
        model(ids_BS, mask_BS, logits="last")
    return torch.stack(found, dim=1)


@contextmanager
def _watching(model: Decoder, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Hands what enters each feed-forward to `keep`, layer after layer."""

    def watch(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        keep(arguments[0])

    handles = [
        layer.get_submodule("feed_forward").register_forward_pre_hook(watch)
        for layer in model.layers
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
