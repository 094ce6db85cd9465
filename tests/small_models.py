"""Small configs and decoders with every parameter random, for tests that need no checkpoint."""

import dataclasses

import torch
from torch import Tensor

from expertly.config import (
    Attention,
    Dense,
    Glu,
    Layer,
    LongScaling,
    Mixture,
    ModelConfig,
    Norm,
    Rope,
    Router,
    YarnScaling,
)
from expertly.model import Decoder

PLAIN = Attention(num_heads=4, num_kv_heads=2, head_size=6, rope=Rope(base=100.0))
MIXTURE = Mixture(num_experts=4, num_chosen=2, expert_size=10, router=Router(norm_p=1.0))
LONG = LongScaling(
    short_factors=(1.0, 1.3, 2.0),
    long_factors=(1.5, 2.5, 4.0),
    short_scale=1.1,
    long_scale=1.4,
    original_context=200,
)
YARN = YarnScaling(factor=4.0, original_context=32, beta_fast=4.0, attention_factor=1.2)

_FEATURES = (
    Layer(
        attention=dataclasses.replace(
            PLAIN,
            rope=Rope(base=300.0, scaling=YARN),
            window=5,
            has_qkv_bias=True,
            has_output_bias=True,
            qk_norm="head",
            has_sinks=True,
        ),
        feed_forward=Dense(size=14, glu=Glu(activation="gelu"), has_bias=True),
    ),
    Layer(
        attention=dataclasses.replace(
            PLAIN,
            rope=Rope(base=500.0, scaling=LONG),
            qk_norm="projection",
            clip=2.5,
        ),
        feed_forward=Mixture(
            num_experts=3,
            num_chosen=2,
            expert_size=9,
            router=Router(norm_p=2.0, has_bias=True),
            glu=Glu(alpha=1.702, limit=3.0, up_shift=1.0),
            has_expert_bias=True,
            shared_size=11,
            has_shared_gate=True,
        ),
    ),
    Layer(
        attention=dataclasses.replace(PLAIN, num_kv_heads=1, window=9),
        feed_forward=dataclasses.replace(
            MIXTURE, router=Router(rule="sparsemixer", jitter=0.3), num_experts=5
        ),
    ),
)


def config_of(*layers: Layer, **changes) -> ModelConfig:
    """A config of these layers; one plain layer with a mixture if none are given."""
    values = {
        "family": "mixtral",
        "vocab_size": 41,
        "hidden_size": 20,
        "max_context": 400,
        "layers": layers or (Layer(attention=PLAIN, feed_forward=MIXTURE),),
        "norm": Norm(eps=1e-6),
    }
    return ModelConfig(**{**values, **changes})


# every parameter that a decoder can have is in it
EVERYTHING = config_of(
    *_FEATURES, norm=Norm(kind="layer", eps=1e-5, has_bias=True), has_head_bias=True
)


def build(config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32) -> Decoder:
    """Random everywhere: matrices wide enough that attention and routers are far from even."""
    model = Decoder(config, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 0.5 if parameter.dim() == 1 or "bias" in name else 0.3
            parameter.normal_(0.0, scale, generator=generator)
            if "norm" in name and "bias" not in name:
                parameter.add_(1.0)
    return model.eval()


def draw_ids(config: ModelConfig, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, config.vocab_size, shape, generator=generator)


def relative_error(ours: Tensor, exact: Tensor) -> float:
    """The largest difference, in standard deviations of what is right."""
    return ((ours - exact).abs().max() / exact.std()).item()
