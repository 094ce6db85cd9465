"""Soft mixtures: no token is sent anywhere, experts compute averages of tokens."""

import torch
from torch import Tensor, nn

from expertly.config import SoftMixture
from expertly.mixture.experts import Experts, empty


class SoftRouter(nn.Module):
    """How much of each token is in a slot, and of each slot in a token's answer: softmaxes over
    a sequence's tokens and over all slots, of one table of logits, in float32."""

    def __init__(self, hidden_size: int, mixture: SoftMixture, dtype: torch.dtype) -> None:
        super().__init__()
        num_experts, num_slots = mixture.num_experts, mixture.num_slots
        self.w_slots_EPD = empty(num_experts, num_slots, hidden_size, dtype=dtype)
        self.scale_1 = empty(1, dtype=dtype)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> tuple[Tensor, Tensor]:
        """Both as BSX, X the slots of all experts."""
        with torch.autocast(x_BSD.device.type, enabled=False):
            slots_XD = nn.functional.normalize(self.w_slots_EPD.float().flatten(0, 1), dim=-1)
            tokens_BSD = nn.functional.normalize(x_BSD.float(), dim=-1)
            logits_BSX = tokens_BSD @ (self.scale_1.float() * slots_XD).T
            # a sequence of padding alone would be a softmax over nothing: finite, then 0
            is_padding_BS1 = ~mask_BS.unsqueeze(-1)
            lowest = torch.finfo(logits_BSX.dtype).min
            dispatch_BSX = logits_BSX.masked_fill(is_padding_BS1, lowest).softmax(1)
            return dispatch_BSX.masked_fill(is_padding_BS1, 0.0), logits_BSX.softmax(-1)


class SoftMixtureLayer(nn.Module):
    """Soft MoE (arXiv 2308.00951, section 2.1, normalised as in 2.3). Padding is in no slot.
    Every token depends on all of its sequence."""

    def __init__(self, hidden_size: int, mixture: SoftMixture, dtype: torch.dtype) -> None:
        super().__init__()
        self.router = SoftRouter(hidden_size, mixture, dtype)
        self.experts = Experts(hidden_size, mixture, dtype)

    def forward(self, x_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        dispatch_BSX, combine_BSX = self.router(x_BSD, mask_BS)
        slots_BXD = dispatch_BSX.mT.to(x_BSD.dtype) @ x_BSD
        y_BXD = self._compute(slots_BXD)
        y_BSD: Tensor = combine_BSX.to(y_BXD.dtype) @ y_BXD
        return y_BSD

    def _compute(self, slots_BXD: Tensor) -> Tensor:
        """Each slot through its expert; the experts' rows come one expert after another."""
        num_experts, num_slots, width = self.router.w_slots_EPD.shape
        batch = slots_BXD.shape[0]
        rows_EXD = slots_BXD.view(batch, num_experts, num_slots * width).transpose(0, 1)
        counts_E = torch.full((num_experts,), batch * num_slots, device=slots_BXD.device)
        y_RD = self.experts.compute(rows_EXD.reshape(-1, width), counts_E)
        y_EBX = y_RD.view(num_experts, batch, num_slots * width)
        return y_EBX.transpose(0, 1).reshape(batch, num_experts * num_slots, width)
