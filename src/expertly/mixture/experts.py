"""The experts' weights, stacked, and what they do with rows that come sorted by expert."""

import torch
from torch import Tensor, nn

from expertly import kernels
from expertly.config import Glu, Mixture, SoftMixture
from expertly.mixture.dispatch import Dispatcher
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

    def __init__(
        self, hidden_size: int, mixture: Mixture | SoftMixture, dtype: torch.dtype
    ) -> None:
        super().__init__()
        num, size = mixture.num_experts, mixture.expert_size
        has_bias = mixture.has_expert_bias
        self.num_experts = num
        # one matrix after the other, each product by torch, for those who watch them
        self.is_apart = False
        # where experts are that are not all here
        self.dispatcher: Dispatcher | None = None
        self.glu = mixture.glu
        self.scales_input = isinstance(mixture, Mixture) and mixture.scales_input
        self.is_zero_identity = isinstance(mixture, Mixture) and mixture.zero == "identity"
        # what one operation computes: no biases, sums that are weighed after the experts
        self.is_plain = not (has_bias or self.scales_input or self.is_zero_identity)
        self.w_gate_EFD = empty(num, size, hidden_size, dtype=dtype)
        self.w_up_EFD = empty(num, size, hidden_size, dtype=dtype)
        self.w_down_EDF = empty(num, hidden_size, size, dtype=dtype)
        self.b_gate_EF = empty(num, size, dtype=dtype) if has_bias else None
        self.b_up_EF = empty(num, size, dtype=dtype) if has_bias else None
        self.b_down_ED = empty(num, hidden_size, dtype=dtype) if has_bias else None

    def forward(self, x_TD: Tensor, rows: Rows, weight_TK: Tensor) -> Tensor:
        """y_TD, the sum over slots of weight * expert(x), a token's slots added in order; slots
        without a row add nothing."""
        order_R, counts_E = self._with_output(rows)
        stacks = (self.w_gate_EFD, self.w_up_EFD, self.w_down_EDF)
        is_whole = self.is_plain and self.dispatcher is None and not self.is_apart
        if is_whole:
            return kernels.expert_rows(x_TD, *stacks, weight_TK, order_R, counts_E, self.glu)
        num_tokens, num_slots = weight_TK.shape
        x_RD = x_TD.index_select(0, order_R // num_slots)
        if self.scales_input:
            weight_R = weight_TK.flatten().index_select(0, order_R)
            x_RD = x_RD * weight_R.unsqueeze(-1).to(x_RD.dtype)
        y_RD = self._compute_all(x_RD, counts_E)
        y_TKD = kernels.put_back(y_RD, order_R, num_tokens, num_slots)
        if self.scales_input:
            return y_TKD.sum(1)
        return torch.einsum("tkd,tk->td", y_TKD, weight_TK.to(y_TKD.dtype))

    def _with_output(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """The rows that give something: those of zero experts, which come last, may not."""
        num = self.num_experts
        if len(rows.counts_E) == num or self.is_zero_identity:
            return rows.order_R, rows.counts_E
        return rows.order_R[: int(rows.counts_E[:num].sum())], rows.counts_E[:num]

    def _compute_all(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        num = self.num_experts
        if len(counts_E) == num:
            return self.compute(x_RD, counts_E)
        num_rows = int(counts_E[:num].sum())
        y_RD = self.compute(x_RD[:num_rows], counts_E[:num])
        return torch.cat((y_RD, x_RD[num_rows:].to(y_RD.dtype)))

    def compute(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        """y_RD: each row through its expert, wherever that is; rows come sorted by expert."""
        if self.dispatcher is None:
            return self._compute_here(x_RD, counts_E)
        arrived = self.dispatcher.send(x_RD, counts_E)
        return arrived.back(self._compute_here(arrived.x_RD, arrived.counts_E))

    def _compute_here(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        stacks = (self.w_gate_EFD, self.w_up_EFD, self.w_down_EDF)
        if self.b_gate_EF is None and not self.is_apart and kernels.is_native(x_RD, *stacks):
            # as tokens with one expert each
            order_R, one_R1 = torch.arange(len(x_RD)), torch.ones(len(x_RD), 1)
            return kernels.expert_rows(x_RD, *stacks, one_R1, order_R, counts_E, self.glu)
        gate_RF = kernels.grouped_mm(x_RD, self.w_gate_EFD, counts_E)
        up_RF = kernels.grouped_mm(x_RD, self.w_up_EFD, counts_E)
        if self.b_gate_EF is not None and self.b_up_EF is not None:
            gate_RF = gate_RF + _of_rows(self.b_gate_EF, counts_E, len(x_RD))
            up_RF = up_RF + _of_rows(self.b_up_EF, counts_E, len(x_RD))
        hidden_RF = kernels.glu(gate_RF, up_RF, self.glu)
        y_RD = kernels.grouped_mm(hidden_RF, self.w_down_EDF, counts_E)
        if self.b_down_ED is not None:
            y_RD = y_RD + _of_rows(self.b_down_ED, counts_E, len(x_RD))
        return y_RD


def _of_rows(b_EF: Tensor, counts_E: Tensor, num_rows: int) -> Tensor:
    """b_RF, the bias of each row's expert. The size is known: a GPU need not be waited for."""
    return b_EF.repeat_interleave(counts_E, dim=0, output_size=num_rows)
