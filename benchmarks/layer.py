"""One mixture layer, forward and backward: ours, with torch's grouped product, and transformers',
against the dense feed-forward of the same active width."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

from benchmarks.harness import Timed, interleave
from expertly.config import Glu, Mixture, Router
from expertly.mixture import MixtureLayer
from expertly.mixture.experts import FeedForward

TOKENS, WIDTH = 512, 256
Step = Callable[[], object]


@dataclass(frozen=True)
class Size:
    num_experts: int
    num_chosen: int
    expert_size: int
    dtype: torch.dtype

    @property
    def mixture(self) -> Mixture:
        return Mixture(
            num_experts=self.num_experts,
            num_chosen=self.num_chosen,
            expert_size=self.expert_size,
            router=Router(norm_p=1.0),
        )


SIZES = [
    Size(experts, chosen, size, dtype)
    for experts, chosen, size in ((64, 8, 64), (8, 2, 256))
    for dtype in (torch.float32, torch.bfloat16)
]


class _ByTorch(MixtureLayer):
    """Ours, its experts by `torch.nn.functional.grouped_mm`."""

    def __init__(self, size: Size) -> None:
        super().__init__(WIDTH, size.mixture, size.dtype)
        self.experts.is_apart = True


def layers(size: Size) -> dict[str, nn.Module]:
    """By name, the dense one first; random weights."""
    active = size.num_chosen * size.expert_size
    found: dict[str, nn.Module] = {
        "dense": FeedForward(WIDTH, active, Glu(), False, size.dtype),
        "ours": MixtureLayer(WIDTH, size.mixture, size.dtype),
        "grouped_mm": _ByTorch(size),
        "transformers": _theirs(size),
    }
    generator = torch.Generator().manual_seed(1)
    for layer in found.values():
        for parameter in layer.parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(drawn * parameter.shape[-1] ** -0.5)
    return found


def _theirs(size: Size) -> nn.Module:
    config = Qwen3MoeConfig(
        hidden_size=WIDTH,
        num_experts=size.num_experts,
        num_experts_per_tok=size.num_chosen,
        moe_intermediate_size=size.expert_size,
        norm_topk_prob=True,
    )
    config._experts_implementation = "eager"
    return Qwen3MoeSparseMoeBlock(config).to(size.dtype)


def step_of(name: str, layer: nn.Module, dtype: torch.dtype) -> Step:
    """A pass forward and one backward, gradients of the input and of every weight."""
    generator = torch.Generator().manual_seed(2)
    x_TD = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype).requires_grad_()
    grad_TD = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype)
    inputs = [x_TD, *layer.parameters()]
    return lambda: torch.autograd.grad(answer(name, layer, x_TD), inputs, grad_TD)


def answer(name: str, layer: nn.Module, x_TD: Tensor) -> Tensor:
    if name == "transformers":
        y_TD: Tensor = layer(x_TD[None])[0]
        return y_TD
    found = layer(x_TD) if name == "dense" else layer(x_TD, None)[0]
    return found  # type: ignore[no-any-return]


def kept_bytes(name: str, layer: nn.Module, dtype: torch.dtype) -> int:
    """What the backward pass keeps, the input and weights not counted."""
    x_TD = torch.randn(TOKENS, WIDTH).to(dtype).requires_grad_()
    known = {part.untyped_storage().data_ptr() for part in (x_TD, *layer.parameters())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y_TD = answer(name, layer, x_TD)
    del y_TD
    return sum(kept.values())


def rows(pairs: int = 9) -> Iterator[dict[str, object]]:
    """A row a size: milliseconds, and times as long as the dense one took in the same round."""
    for size in SIZES:
        made = layers(size)
        timed: Timed = interleave(
            {name: step_of(name, layer, size.dtype) for name, layer in made.items()}, pairs
        )
        yield {
            "experts": size.num_experts,
            "chosen": size.num_chosen,
            "expert_size": size.expert_size,
            "dtype": str(size.dtype).removeprefix("torch."),
            "milliseconds": {name: round(ms, 2) for name, ms in timed.milliseconds.items()},
            "to_dense": {name: round(ratio, 2) for name, ratio in timed.ratio.items()},
            "spread": {
                name: [round(edge, 2) for edge in spread] for name, spread in timed.spread.items()
            },
            "kept_kilobytes": {
                name: kept_bytes(name, layer, size.dtype) // 1000 for name, layer in made.items()
            },
        }
