"""Rotary positions: frequencies by scaling rule, angles by position."""

import math

import torch
from torch import Tensor

from expertly.config import Llama3Scaling, LongScaling, Rope, YarnScaling


def _plain(base: float, head_size: int) -> Tensor:
    """Frequencies base^(-2i/C), i < C/2 (RoFormer, arXiv 2104.09864, equation 15)."""
    steps = torch.arange(0, head_size, 2, dtype=torch.float32) / head_size
    return 1.0 / base**steps


def _llama3(plain: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Kept where the context holds over `high` turns, divided below `low`, blended between."""
    turns = scaling.original_context * plain / (2 * math.pi)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / width).clamp(0, 1)
    return kept * plain + (1 - kept) * plain / scaling.factor


def _yarn(plain: Tensor, base: float, head_size: int, scaling: YarnScaling) -> Tensor:
    """Kept above beta_fast turns in the original context, divided below beta_slow turns."""

    def index(turns: float) -> float:
        wavelength = scaling.original_context / (turns * 2 * math.pi)
        return head_size * math.log(wavelength) / (2 * math.log(base))

    low, high = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.is_truncated:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    # a ramp of no width would divide by zero
    width = high - low or 0.001
    divided = ((torch.arange(head_size // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return divided * plain / scaling.factor + (1 - divided) * plain


def frequencies(rope: Rope, head_size: int, is_long: bool = False) -> tuple[Tensor, float]:
    """Radians a position for each of C/2 pairs, and the factor on cos and sin."""
    plain = _plain(rope.base, head_size)
    scaling = rope.scaling
    if scaling is None:
        return plain, 1.0
    if isinstance(scaling, Llama3Scaling):
        return _llama3(plain, scaling), 1.0
    if isinstance(scaling, YarnScaling):
        return _yarn(plain, rope.base, head_size, scaling), scaling.attention_factor
    if isinstance(scaling, LongScaling):
        factors = scaling.long_factors if is_long else scaling.short_factors
        scale = scaling.long_scale if is_long else scaling.short_scale
        return plain / torch.tensor(factors), scale
    return plain / scaling.factor, 1.0


def _frequencies_on(
    device: torch.device, rope: Rope, head_size: int, is_long: bool = False
) -> tuple[Tensor, float]:
    """Computed by the processor, so that they are the same numbers everywhere."""
    freq, scale = frequencies(rope, head_size, is_long)
    return freq.to(device), scale


def angles(
    rope: Rope, head_size: int, positions_BS: Tensor, lengths_B: Tensor
) -> tuple[Tensor, Tensor]:
    """cos and sin, both B1S(C/2), float32. `lengths_B`: tokens of each sequence up to now; they
    choose between LongRoPE's two sets, a sequence by itself, whatever its neighbours are."""
    device = positions_BS.device
    freq, scale = _frequencies_on(device, rope, head_size)
    freq_BC, scale_B = freq[None], torch.tensor([scale], device=device)
    if isinstance(rope.scaling, LongScaling):
        is_long_B = lengths_B > rope.scaling.original_context
        long_freq, long_scale = _frequencies_on(device, rope, head_size, is_long=True)
        freq_BC = torch.where(is_long_B[:, None], long_freq, freq)
        scale_B = torch.where(is_long_B, long_scale, scale)
    turned = positions_BS[:, None, :, None].float() * freq_BC[:, None, None]
    return turned.cos() * scale_B[:, None, None, None], turned.sin() * scale_B[:, None, None, None]


def lengthening(
    rope: Rope, head_size: int, positions_BN: Tensor, before_B: Tensor, after_B: Tensor
) -> tuple[Tensor, Tensor] | None:
    """What to turn cached keys by, when sequences grow past LongRoPE's original context: cos
    and sin, B1N(C/2), the identity for the other sequences; None if no sequence does."""
    if not isinstance(rope.scaling, LongScaling):
        return None
    limit = rope.scaling.original_context
    crosses_B = (before_B <= limit) & (after_B > limit)
    if not crosses_B.any():
        return None
    device = positions_BN.device
    short, short_scale = _frequencies_on(device, rope, head_size)
    long, long_scale = _frequencies_on(device, rope, head_size, is_long=True)
    delta_BC = torch.where(crosses_B[:, None], long - short, 0.0)
    ratio_B = torch.where(crosses_B, long_scale / short_scale, 1.0)[:, None, None, None]
    turned = positions_BN[:, None, :, None].float() * delta_BC[:, None, None]
    return turned.cos() * ratio_B, turned.sin() * ratio_B
