"""Rotary positions in GGUF files, both ways: keys, and tensors of the frequencies' divisors.

What is written is what llama.cpp reads; Llama 3's rule is kept as its divisors alone.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from expertly.config import (
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    ModelConfig,
    Rope,
    YarnScaling,
)
from expertly.errors import ConfigError
from expertly.families.gguf_archs import Arch
from expertly.families.gguf_keys import GgufKeys

Shapes = Mapping[str, tuple[int, ...]]
ReadFloats = Callable[[str], tuple[float, ...]]

FREQS, LONG, SHORT = (f"rope_{name}.weight" for name in ("freqs", "factors_long", "factors_short"))


def read_scaling(
    keys: GgufKeys, arch: Arch, head_size: int, shapes: Shapes, read_floats: ReadFloats
) -> LinearScaling | YarnScaling | LongScaling | None:
    """A factor without a type is a linear one."""
    kind = keys.get("rope.scaling.type")
    original = keys.size("rope.scaling.original_context_length", keys.size("context_length"))
    older = keys.number("rope.scale_linear", 0.0)
    factor = keys.number("rope.scaling.factor", older) or 1.0
    attention_factor = keys.number("rope.scaling.attn_factor", 1.0)
    if factor < 0:
        raise keys.error("rope.scaling.factor", factor, "more than 0")
    if LONG in shapes or FREQS in shapes:
        scale = _long_scale(arch, attention_factor, keys.size("context_length"), original)
        return _divided(head_size, shapes, read_floats, original, scale)
    if kind == "yarn":
        return _yarn(keys, arch, factor, original, attention_factor)
    if kind not in (None, "none", "linear"):
        raise keys.error("rope.scaling.type", kind, "linear or yarn")
    return None if kind == "none" or factor == 1.0 else LinearScaling(factor=factor)


def _yarn(
    keys: GgufKeys, arch: Arch, factor: float, original: int, attention_factor: float
) -> YarnScaling:
    # the growth of cos and sin that the factor brings is left unsaid in these files
    attention_factor *= _growth(factor)
    keys.must_be("rope.scaling.yarn_ext_factor", None, -1.0, 1.0)
    return YarnScaling(
        factor=factor,
        original_context=original,
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        # what a config.json says of it is all of it
        attention_factor=keys.number("rope.scaling.yarn_attn_factor", attention_factor),
        is_truncated=arch.is_truncated,
    )


def _growth(factor: float) -> float:
    return 1.0 + 0.1 * math.log(max(factor, 1.0))


def _long_scale(arch: Arch, said: float, context: int, original: int) -> float:
    """The published model's own, where a converter computed it from how far the context grew."""
    if arch.long_scale is None or not 1 < original < context:
        return said
    computed = math.sqrt(1.0 + math.log(context / original) / math.log(original))
    return arch.long_scale if math.isclose(said, computed, rel_tol=1e-5) else said


def _divided(
    head_size: int, shapes: Shapes, read_floats: ReadFloats, original: int, scale: float
) -> LongScaling:
    """Frequencies divided by factors that the file lists: LongRoPE's two sets, or one set for
    sequences of any length (how Llama 3's rule is kept)."""

    def factors(name: str) -> tuple[float, ...]:
        found = read_floats(name) if name in shapes else ()
        if len(found) != head_size // 2 or not all(0 < value < math.inf for value in found):
            raise ConfigError(
                f"{name} holds {len(found)} numbers, where {head_size // 2} above 0 are wanted",
                hint="convert the model again with a current tool",
            )
        return found

    if FREQS in shapes:
        short = long = factors(FREQS)
    else:
        short, long = factors(SHORT), factors(LONG)
    return LongScaling(
        short_factors=short,
        long_factors=long,
        short_scale=scale,
        long_scale=scale,
        original_context=original,
    )


@dataclass(frozen=True, kw_only=True)
class SaidRope:
    """Keys without their architecture, and tensors of float32."""

    keys: Mapping[str, float | int | str]
    tensors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def say_rope(rope: Rope, head_size: int) -> SaidRope:
    """A rope as files say it. What they have no words for is said as nearly as can be."""
    base: dict[str, float | int | str] = {"rope.freq_base": rope.base}
    scaling = rope.scaling
    if isinstance(scaling, LinearScaling):
        return SaidRope(
            keys={**base, "rope.scaling.type": "linear", "rope.scaling.factor": scaling.factor}
        )
    if isinstance(scaling, YarnScaling):
        return SaidRope(keys={**base, **_said_yarn(scaling)})
    if isinstance(scaling, Llama3Scaling):
        return SaidRope(keys=base, tensors={FREQS: llama3_divisors(rope, head_size)})
    if isinstance(scaling, LongScaling):
        long: dict[str, float | int | str] = {
            "rope.scaling.type": "longrope",
            "rope.scaling.original_context_length": scaling.original_context,
            "rope.scaling.attn_factor": scaling.long_scale,
        }
        factors = {LONG: scaling.long_factors, SHORT: scaling.short_factors}
        return SaidRope(keys={**base, **long}, tensors=factors)
    return SaidRope(keys=base)


def _said_yarn(scaling: YarnScaling) -> dict[str, float | int | str]:
    return {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": scaling.factor,
        "rope.scaling.original_context_length": scaling.original_context,
        "rope.scaling.attn_factor": scaling.attention_factor / _growth(scaling.factor),
        "rope.scaling.yarn_beta_fast": scaling.beta_fast,
        "rope.scaling.yarn_beta_slow": scaling.beta_slow,
    }


def llama3_divisors(rope: Rope, head_size: int) -> tuple[float, ...]:
    """What Llama 3's rule divides each plain frequency by."""
    scaling = rope.scaling
    assert isinstance(scaling, Llama3Scaling)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    found = []
    for pair in range(head_size // 2):
        plain = rope.base ** (-2 * pair / head_size)
        turns = scaling.original_context * plain / (2 * math.pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1.0 / (kept + (1.0 - kept) / scaling.factor))
    return tuple(found)


def as_read(rope: Rope, head_size: int, config: ModelConfig) -> Rope:
    """A rope as it comes back from a file: Llama 3's rule as its divisors."""
    if not isinstance(rope.scaling, Llama3Scaling):
        return rope
    divisors = llama3_divisors(rope, head_size)
    scaling = LongScaling(
        short_factors=divisors,
        long_factors=divisors,
        short_scale=1.0,
        long_scale=1.0,
        original_context=config.max_context,
    )
    return Rope(base=rope.base, scaling=scaling)
