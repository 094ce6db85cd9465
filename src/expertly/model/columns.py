"""Which columns of a batch are tokens: the native decoder's tokens are rows without padding."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expertly.mixture import Tokens


class Columns:
    """Of a batch of `shape` B, S: all of them, or those that `mask_BS` marks; T tokens.

    Without a mask nothing is searched for one, as such calls are most of what Python costs a step.
    """

    def __init__(self, shape: Sequence[int], mask_BS: Tensor | None = None) -> None:
        self._B, self._S = shape
        self._mask_BS = mask_BS if mask_BS is None else mask_BS.bool()
        self.counts_B: list[int]  # tokens of each sequence
        self.sequence_T: NDArray[np.int64]
        self.rank_T: NDArray[np.int64]  # which of its sequence's tokens each is
        if self._mask_BS is None:
            self.counts_B = [self._S] * self._B
            self.sequence_T = np.repeat(np.arange(self._B), self._S)
            self.rank_T = np.tile(np.arange(self._S), self._B)
        else:
            is_token_BS = self._mask_BS.numpy()
            self.counts_B = is_token_BS.sum(1).tolist()
            self.sequence_T = np.nonzero(is_token_BS)[0]
            self.rank_T = (is_token_BS.cumsum(1) - 1)[is_token_BS]

    @property
    def num_tokens(self) -> int:
        return len(self.sequence_T)

    def tokens_of(self, ids_BS: Tensor) -> NDArray[np.int64]:
        """ids_T of the tokens."""
        ids = ids_BS.numpy()
        found: NDArray[np.int64]
        found = ids.ravel() if self._mask_BS is None else ids[self._mask_BS.numpy()]
        return found

    def last_rows(self) -> NDArray[np.int64]:
        """Which tokens stand in the last column."""
        if self._mask_BS is None:
            return np.arange(self._S - 1, self.num_tokens, self._S)
        is_last_BS = torch.zeros_like(self._mask_BS)
        is_last_BS[:, -1] = True
        return np.nonzero(is_last_BS[self._mask_BS].numpy())[0]

    def spread(self, rows_TX: Tensor) -> Tensor:
        """What belongs to the tokens in its columns, of a whole batch (BSX); zeros elsewhere."""
        if self._mask_BS is None:
            return rows_TX.view(self._B, self._S, -1)
        whole_BSX = rows_TX.new_zeros(self._B, self._S, rows_TX.shape[1])
        whole_BSX[self._mask_BS] = rows_TX
        return whole_BSX

    def spread_last(self, rows_LX: Tensor) -> Tensor:
        """What belongs to `last_rows()` as the last column (BX); zeros elsewhere."""
        if self._mask_BS is None or len(rows_LX) == self._B:
            return rows_LX
        whole_BX = rows_LX.new_zeros(self._B, rows_LX.shape[1])
        whole_BX[self._mask_BS[:, -1]] = rows_LX
        return whole_BX

    def tokens(self) -> Tokens:
        """Of all columns, as the reference decoder has them."""
        sequence_BS = torch.arange(self._B)[:, None].expand(self._B, self._S)
        mask_BS = torch.ones(self._B, self._S, dtype=torch.bool)
        whole_BS = mask_BS if self._mask_BS is None else self._mask_BS
        return Tokens(whole_BS.flatten(), sequence_BS.flatten())
