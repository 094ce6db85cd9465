"""Tables of rotary angles for the native decoder: a row a position, made as far as needed."""

import numpy as np
import torch
from numpy.typing import NDArray

from expertly.config import Attention, LongScaling, Rope
from expertly.errors import ConfigError
from expertly.model.rope import angles, lengthening

Floats = NDArray[np.float32]
_LEAST = 512


class AngleTables:
    """cos and sin of one rope, [positions][C / 2]; in a model with LongRoPE two sets one after the
    other, each `size` rows long: the second for sequences beyond its original context."""

    def __init__(self, rope: Rope, head_size: int, long_context: int | None) -> None:
        self._rope = rope
        self._head_size = head_size
        self._long_context = long_context
        self.size = 0
        self.cos: Floats = np.zeros((0, head_size // 2), np.float32)
        self.sin: Floats = self.cos

    def reach(self, length: int) -> None:
        """Have at least `length` rows."""
        if length <= self.size:
            return
        self.size = max(_LEAST, 2 * length)
        sets = [self._of(0)]
        if self._long_context is not None:
            sets.append(self._of(self._long_context + 1))
        self.cos = np.concatenate([cos for cos, _ in sets])
        self.sin = np.concatenate([sin for _, sin in sets])

    def _of(self, length: int) -> tuple[Floats, Floats]:
        """The rows that a sequence of `length` tokens uses."""
        positions_BS = torch.arange(self.size)[None]
        cos, sin = angles(self._rope, self._head_size, positions_BS, torch.tensor([length]))
        return cos[0, 0].contiguous().numpy(), sin[0, 0].contiguous().numpy()

    def turning(self, length: int, count: int) -> tuple[Floats, Floats] | None:
        """What to turn `length` cached keys by when `count` tokens follow them: cos and sin,
        [length][C / 2], if the sequence grows past LongRoPE's original context; else None."""
        positions_BN = torch.arange(length)[None]
        before_B, after_B = torch.tensor([length]), torch.tensor([length + count])
        found = lengthening(self._rope, self._head_size, positions_BN, before_B, after_B)
        if found is None:
            return None
        cos, sin = (part[0, 0].contiguous().numpy() for part in found)
        return cos, sin


def long_context(attentions: list[Attention]) -> int | None:
    """LongRoPE's original context, one for all layers; None without LongRoPE."""
    scalings = [attention.rope.scaling for attention in attentions]
    found = {s.original_context for s in scalings if isinstance(s, LongScaling)}
    if len(found) > 1:
        raise ConfigError(
            f"layers whose LongRoPE has the original contexts {sorted(found)}",
            hint='load it with dtype="float32", which takes any',
        )
    return found.pop() if found else None


def tables_of(attentions: list[Attention]) -> list[AngleTables]:
    """A table for each layer; layers with the same rope share one."""
    made: dict[tuple[Rope, int], AngleTables] = {}
    original = long_context(attentions)
    for attention in attentions:
        key = (attention.rope, attention.head_size)
        if key not in made:
            made[key] = AngleTables(*key, original)
    return [made[(attention.rope, attention.head_size)] for attention in attentions]
