"""Experts as transformers declares them, with random weights; how ours are held against them."""

import torch
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.integrations.moe import batched_mm_experts_forward, use_experts_implementation

from expertly import _native
from expertly.plug.implementation import Implementation, Workers

# root mean square of the difference over that of the right answer; bf16 has 8 bits, int8 rounds
# weights and activations to 1/127 of the largest of 32, int4 weights to 1/15 of their span
TOLERANCES = {"bf16": 0.01, "int8": 0.03, "int4": 0.25}
WIDTH, SIZE, NUM_EXPERTS = 48, 32, 4


def made(
    *,
    has_gate: bool = True,
    has_bias: bool = False,
    is_transposed: bool = False,
    is_concatenated: bool = True,
    has_post_expert_norm: bool = False,
    act: object = nn.functional.silu,
) -> nn.Module:
    """Experts with these traits, declared by transformers' own decorator."""

    def stack(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(NUM_EXPERTS, *shape))

    class Experts(nn.Module):
        def __init__(self, config: MixtralConfig) -> None:
            super().__init__()
            self.num_experts = NUM_EXPERTS
            self.act_fn = act
            first, both = ("gate_up_proj", 2 * SIZE) if has_gate else ("up_proj", SIZE)
            turn = -1 if is_transposed else 1
            setattr(self, first, stack(*(both, WIDTH)[::turn]))
            self.down_proj = stack(*(WIDTH, SIZE)[::turn])
            if has_bias:
                setattr(self, f"{first}_bias", stack(both))
                self.down_proj_bias = stack(WIDTH)
            if has_post_expert_norm:
                self.post_expert_norm = nn.RMSNorm(WIDTH)

        def forward(self, *args: Tensor) -> Tensor:
            return batched_mm_experts_forward(self, *args)

    if not is_concatenated:

        def apply_gate(self: nn.Module, both: Tensor) -> Tensor:
            return act(both[..., ::2]) * both[..., 1::2]

        Experts._apply_gate = apply_gate
    decorate = use_experts_implementation(
        has_gate=has_gate,
        has_bias=has_bias,
        is_transposed=is_transposed,
        is_concatenated=is_concatenated,
        has_post_expert_norm=has_post_expert_norm,
    )
    return randomised(decorate(Experts)(MixtralConfig()))


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    module.config._experts_implementation = "eager"
    return module


def asked(num_tokens: int = 7, seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, two experts of each and their weights; later rows are large enough to be clamped."""
    generator = torch.Generator().manual_seed(seed)
    x_TD = torch.randn(num_tokens, WIDTH, generator=generator)
    x_TD *= torch.linspace(0.2, 12.0, num_tokens)[:, None]
    order_TE = torch.rand(num_tokens, NUM_EXPERTS, generator=generator).argsort(1)
    return x_TD, order_TE[:, :2], torch.rand(num_tokens, 2, generator=generator)


def ours(dtype: str = "bf16", kernels: str = "", threads: int = 1) -> Implementation:
    return Implementation(dtype, Workers(_native.Runtime(threads, kernels)))


def error(found_TD: Tensor, right_TD: Tensor) -> float:
    """The mean of the rows' errors, each against that row's own size."""
    rms_T = (found_TD - right_TD).square().mean(1).sqrt()
    return (rms_T / right_TD.square().mean(1).sqrt()).mean().item()
