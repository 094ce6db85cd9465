"""The simple key/value cache: one growing buffer a layer, and what the model asks of any cache."""

import torch
from torch import Tensor

from expertly.config import ModelConfig


class Cache:
    """Keys and values of every layer for a batch whose sequences grow together.

    `length` counts columns, padding included; `mask_BN` says which columns are tokens.
    """

    def __init__(
        self, config: ModelConfig, batch_size: int = 1, device: torch.device | None = None
    ) -> None:
        self.batch_size = batch_size
        self.length = 0
        self.mask_BN = torch.ones(batch_size, 0, dtype=torch.bool, device=device)
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * len(config.layers)

    def admit(self, mask_BS: Tensor) -> None:
        """Make room for S more columns; the layers then `append` theirs."""
        self.mask_BN = torch.cat((self.mask_BN, mask_BS), dim=1)
        self.length += mask_BS.shape[1]

    def append(self, layer: int, k_BGSC: Tensor, v_BGSC: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all columns so far, k_BGNC and v_BGNC, these included."""
        before = self.length - k_BGSC.shape[2]
        k_buffer, v_buffer = self._room(layer, k_BGSC)
        k_buffer[:, :, before : self.length] = k_BGSC
        v_buffer[:, :, before : self.length] = v_BGSC
        return k_buffer[:, :, : self.length], v_buffer[:, :, : self.length]

    def keys(self, layer: int, length: int) -> Tensor:
        """A view of the keys of the first `length` columns, k_BGNC, to be changed in place."""
        buffers = self._buffers[layer]
        assert buffers is not None and length <= self.length
        return buffers[0][:, :, :length]

    def _room(self, layer: int, like_BGSC: Tensor) -> tuple[Tensor, Tensor]:
        old = self._buffers[layer]
        if old is not None and old[0].shape[2] >= self.length:
            return old
        batch, groups, _, head_size = like_BGSC.shape
        # doubling keeps the copying linear in the length
        shape = (batch, groups, max(64, 2 * self.length), head_size)
        new = (like_BGSC.new_empty(shape), like_BGSC.new_empty(shape))
        if old is not None:
            for new_one, old_one in zip(new, old, strict=True):
                new_one[:, :, : old_one.shape[2]] = old_one
        self._buffers[layer] = new
        return new
