"""What all layers share in one forward pass: positions, masks and angles of the new columns."""

import torch
from torch import Tensor

from expertly.config import Attention
from expertly.model.cache import Cache
from expertly.model.rope import angles, lengthening


class Span:
    """S new columns after `before` cached ones; N = before + S keys. Made once a forward pass."""

    def __init__(self, mask_BS: Tensor | None, ids_BS: Tensor, cache: Cache | None):
        self.size = ids_BS.shape[1]
        self.before = 0 if cache is None else cache.length
        new_mask_BS = torch.ones_like(ids_BS, dtype=torch.bool) if mask_BS is None else mask_BS
        if cache is not None:
            cache.admit(new_mask_BS)
        self.mask_BN = new_mask_BS if cache is None else cache.mask_BN
        # not asked where it is known: a GPU would have to be waited for
        is_known = mask_BS is None and cache is None
        self._is_padded = not (is_known or bool(self.mask_BN.all()))
        # a token's position counts the tokens before it, so padding moves nothing
        self.positions_BN = (self.mask_BN.cumsum(1) - 1).clamp(min=0)
        self._seen: dict[int | None, Tensor | None] = {}
        self._angles: dict[Attention, tuple[Tensor, Tensor]] = {}

    @property
    def mask_BS(self) -> Tensor:
        return self.mask_BN[:, self.before :]

    def seen(self, window: int | None) -> Tensor | None:
        """seen_BSN, which keys each query sees; None if that is all before it and nothing else."""
        if window not in self._seen:
            self._seen[window] = self._make_seen(window)
        return self._seen[window]

    def _make_seen(self, window: int | None) -> Tensor | None:
        is_cut = window is not None and window < self.mask_BN.shape[1]
        if not (self._is_padded or is_cut or self.before):
            return None
        query_BS1 = self.positions_BN[:, self.before :, None]
        key_B1N = self.positions_BN[:, None, :]
        seen_BSN = (key_B1N <= query_BS1) & self.mask_BN[:, None, :]
        if window is not None:
            seen_BSN &= key_B1N > query_BS1 - window
        # padding sees itself: a softmax over nothing would be NaN
        padding_BS = ~self.mask_BS
        own = torch.arange(self.size, device=seen_BSN.device)
        seen_BSN[:, own, own + self.before] |= padding_BS
        return seen_BSN

    def angles(self, attention: Attention) -> tuple[Tensor, Tensor]:
        """cos and sin of the new columns, B1S(C/2)."""
        if attention not in self._angles:
            positions_BS = self.positions_BN[:, self.before :]
            lengths_B = self.mask_BN.sum(1)
            self._angles[attention] = angles(
                attention.rope, attention.head_size, positions_BS, lengths_B
            )
        return self._angles[attention]

    def lengthening(self, attention: Attention) -> tuple[Tensor, Tensor] | None:
        """How the cached keys must be turned now, B1N(C/2) over the cached columns, or None."""
        if not self.before:
            return None
        before_BN = self.mask_BN[:, : self.before]
        positions_BN = self.positions_BN[:, : self.before]
        return lengthening(
            attention.rope, attention.head_size, positions_BN, before_BN.sum(1), self.mask_BN.sum(1)
        )
