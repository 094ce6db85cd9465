"""Reads rotary positions as hub files spell them (`rope_theta` and `rope_scaling` with `type` or
`rope_type`) and as transformers 5 saves them (`rope_parameters`)."""

import math
from typing import Any

from expertly.config import LinearScaling, Llama3Scaling, LongScaling, Rope, YarnScaling
from expertly.errors import ConfigError
from expertly.families.reading import Keys

_BUILT = ("default", "linear", "llama3", "yarn", "longrope")
Scaling = LinearScaling | Llama3Scaling | YarnScaling | LongScaling


def read_rope(
    keys: Keys,
    *,
    head_size: int,
    max_context: int,
    default_base: float = 10000.0,
    has_mscales: bool = False,
) -> Rope:
    """Rotary positions of a config.

    Defaults are transformers': the base its class gives, `max_context` for a missing original
    context. With `has_mscales` the factors on cos and sin of LongRoPE are `short_mscale` and
    `long_mscale`, as Phi-3.5-MoE has them. Raises `ConfigError` for a kind that is not built.
    """
    rope = Keys(_merged(keys), "config.json: rope_parameters")
    base = _positive("rope_theta", rope.number("rope_theta", default=default_base))
    rope.must_be("partial_rotary_factor", 1.0)
    built = ("default", "longrope") if has_mscales else _BUILT
    kind = rope.choice("rope_type", of={name: name for name in built}, default="default")
    scaling: Scaling | None = None
    if kind == "default":
        rope.must_be("original_max_position_embeddings", None, max_context)
    elif kind == "linear":
        scaling = LinearScaling(factor=_positive("factor", rope.number("factor")))
    else:
        original = rope.size("original_max_position_embeddings", default=max_context, minimum=2)
        if kind == "llama3":
            scaling = _llama3(rope, original)
        elif kind == "yarn":
            scaling = _yarn(rope, original, max_context)
        else:
            scaling = _longrope(rope, original, max_context, head_size, has_mscales)
    rope.finish()
    return Rope(base=base, scaling=scaling)


def _merged(keys: Keys) -> dict[str, Any]:
    """All rope keys of the file in one object, spelled as transformers 5 does."""
    found: dict[str, tuple[str, Any]] = {}  # key: where it stood, its value

    def put(name: str, spelled: str, value: Any) -> None:
        where, first = found.setdefault(name, (spelled, value))
        if first != value:
            keys.contradict(where, first, spelled, value)

    for title in ("rope_parameters", "rope_scaling"):
        section = keys.section(title)
        for name, value in section.values().items() if section else ():
            put("rope_type" if name == "type" else name, f"{title}.{name}", value)
    for name in ("rope_theta", "original_max_position_embeddings", "partial_rotary_factor"):
        number = keys.maybe_number(name)
        if number is not None:
            put(name, name, int(number) if number.is_integer() else number)
    return {name: value for name, (_, value) in found.items()}


def _positive(name: str, value: float) -> float:
    if value <= 0:
        raise ConfigError(
            f"config.json: {name} must be positive, not {value}",
            hint="check the model's config.json against its published one",
        )
    return value


def _llama3(rope: Keys, original: int) -> Llama3Scaling:
    return Llama3Scaling(
        factor=_positive("factor", rope.number("factor")),
        low_freq_factor=_positive("low_freq_factor", rope.number("low_freq_factor")),
        high_freq_factor=_positive("high_freq_factor", rope.number("high_freq_factor")),
        original_context=original,
    )


def _yarn(rope: Keys, original: int, max_context: int) -> YarnScaling:
    """A null factor is the ratio of the contexts. The factor on cos and sin, unless it is given,
    is m(1), or m(mscale) / m(mscale_all_dim), with m(s) = 0.1 s ln(factor) + 1."""
    factor = rope.maybe_number("factor") if "factor" in rope else rope.number("factor")
    factor = max_context / original if factor is None else _positive("factor", factor)
    mscale, all_dim = rope.maybe_number("mscale"), rope.maybe_number("mscale_all_dim")
    given = rope.maybe_number("attention_factor")

    def m(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    derived = m(mscale) / m(all_dim) if mscale and all_dim else m(1.0)
    return YarnScaling(
        factor=factor,
        original_context=original,
        beta_fast=rope.maybe_number("beta_fast") or 32.0,
        beta_slow=rope.maybe_number("beta_slow") or 1.0,
        attention_factor=derived if given is None else given,
        is_truncated=rope.flag("truncate", default=True),
    )


def _longrope(
    rope: Keys, original: int, max_context: int, head_size: int, has_mscales: bool
) -> LongScaling:
    short, long = rope.numbers("short_factor"), rope.numbers("long_factor")
    for name, factors in (("short_factor", short), ("long_factor", long)):
        if len(factors) != head_size // 2:
            raise ConfigError(
                f"config.json: {name} holds {len(factors)} numbers, but a head of width "
                f"{head_size} has {head_size // 2} frequencies",
                hint="check the model's config.json against its published one",
            )
        _positive(name, min(factors))
    if has_mscales:
        scales = rope.number("short_mscale"), rope.number("long_mscale")
    else:
        scales = (_longrope_attention_factor(rope, original, max_context),) * 2
    return LongScaling(
        short_factors=short,
        long_factors=long,
        short_scale=scales[0],
        long_scale=scales[1],
        original_context=original,
    )


def _longrope_attention_factor(rope: Keys, original: int, max_context: int) -> float:
    """sqrt(1 + ln(factor) / ln(original)) unless it is given (LongRoPE, section 3.3)."""
    given = rope.maybe_number("attention_factor")
    factor = rope.maybe_number("factor")
    factor = max_context / original if factor is None else _positive("factor", factor)
    if given is not None:
        return given
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
