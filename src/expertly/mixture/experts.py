"""The experts' weights, stacked, and what they do with rows that come sorted by expert."""

import torch
from torch import Tensor, nn

from expertly import kernels
from expertly.config import Glu, Mixture
from expertly.mixture.routing import Rows


def empty(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    """A parameter to be loaded or initialised."""
    return nn.Parameter(torch.empty(shape, dtype=dtype))


class FeedForward(nn.Module):
    """A dense gated feed-forward: down(act(gate x) * up x)."""

    def __init__(
        self, hidden_size: int, size: int, glu: Glu, has_bias: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.glu = glu
        self.w_gate_FD = empty(size, hidden_size, dtype=dtype)
        self.w_up_FD = empty(size, hidden_size, dtype=dtype)
        self.w_down_DF = empty(hidden_size, size, dtype=dtype)
        self.b_gate_F = empty(size, dtype=dtype) if has_bias else None
        self.b_up_F = empty(size, dtype=dtype) if has_bias else None
        self.b_down_D = empty(hidden_size, dtype=dtype) if has_bias else None

    def forward(self, x_TD: Tensor) -> Tensor:
        gate_TF = nn.functional.linear(x_TD, self.w_gate_FD, self.b_gate_F)
        up_TF = nn.functional.linear(x_TD, self.w_up_FD, self.b_up_F)
        hidden_TF = kernels.glu(gate_TF, up_TF, self.glu)
        return nn.functional.linear(hidden_TF, self.w_down_DF, self.b_down_D)


class Experts(nn.Module):
    """E gated feed-forwards of one shape, each applied to its own rows."""

    def __init__(self, hidden_size: int, mixture: Mixture, dtype: torch.dtype) -> None:
        super().__init__()
        num, size = mixture.num_experts, mixture.expert_size
        has_bias = mixture.has_expert_bias
        self.glu = mixture.glu
        self.w_gate_EFD = empty(num, size, hidden_size, dtype=dtype)
        self.w_up_EFD = empty(num, size, hidden_size, dtype=dtype)
        self.w_down_EDF = empty(num, hidden_size, size, dtype=dtype)
        self.b_gate_EF = empty(num, size, dtype=dtype) if has_bias else None
        self.b_up_EF = empty(num, size, dtype=dtype) if has_bias else None
        self.b_down_ED = empty(num, hidden_size, dtype=dtype) if has_bias else None

    def forward(self, x_TD: Tensor, rows: Rows, weight_TK: Tensor) -> Tensor:
        """y_TD, the sum over slots of weight * expert(x), a token's slots added in order."""
        num_tokens, num_chosen = weight_TK.shape
        y_RD = self._compute(x_TD.index_select(0, rows.order_R // num_chosen), rows.counts_E)
        # the inverse permutation brings the rows back to (token, slot)
        place_R = torch.empty_like(rows.order_R).scatter_(
            0, rows.order_R, torch.arange(rows.order_R.shape[0], device=x_TD.device)
        )
        y_TKD = y_RD.index_select(0, place_R).view(num_tokens, num_chosen, x_TD.shape[1])
        return torch.einsum("tkd,tk->td", y_TKD, weight_TK.to(y_TKD.dtype))

    def _compute(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        gate_RF = kernels.grouped_mm(x_RD, self.w_gate_EFD, counts_E)
        up_RF = kernels.grouped_mm(x_RD, self.w_up_EFD, counts_E)
        if self.b_gate_EF is not None and self.b_up_EF is not None:
            gate_RF = gate_RF + self.b_gate_EF.repeat_interleave(counts_E, dim=0)
            up_RF = up_RF + self.b_up_EF.repeat_interleave(counts_E, dim=0)
        hidden_RF = kernels.glu(gate_RF, up_RF, self.glu)
        y_RD = kernels.grouped_mm(hidden_RF, self.w_down_EDF, counts_E)
        if self.b_down_ED is not None:
            y_RD = y_RD + self.b_down_ED.repeat_interleave(counts_E, dim=0)
        return y_RD
