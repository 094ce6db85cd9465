"""Mixtures of attention heads: queries of a token's own experts, and their answers put together."""

import torch
from torch import Tensor, nn

from expertly import kernels
from expertly.config import HeadExperts
from expertly.mixture.experts import empty
from expertly.mixture.routers import LearnedRouter
from expertly.mixture.routing import Choice, Rows, Tokens, sort_rows


class AttentionExperts(nn.Module):
    """E query and output projections, `width` = key heads times their size (X here); see
    `config.HeadExperts`. What happens between the two calls is the attention's."""

    def __init__(
        self, hidden_size: int, width: int, experts: HeadExperts, dtype: torch.dtype
    ) -> None:
        super().__init__()
        num = experts.num_experts
        self.router = LearnedRouter(hidden_size, experts, dtype)
        self.w_q_EXD = empty(num, width, hidden_size, dtype=dtype)
        self.w_o_EDX = empty(num, hidden_size, width, dtype=dtype)

    def choose(self, x_TD: Tensor, tokens: Tokens) -> tuple[Choice, Rows]:
        choice: Choice = self.router(x_TD, tokens)
        return choice, sort_rows(choice.ids_TK, self.w_q_EXD.shape[0])

    def queries(self, x_TD: Tensor, rows: Rows) -> Tensor:
        """q_TKX: each token's by each of its experts."""
        num_tokens = x_TD.shape[0]
        num_chosen = self.router.num_chosen
        x_RD = x_TD.index_select(0, rows.order_R // num_chosen)
        q_RX = kernels.grouped_mm(x_RD, self.w_q_EXD, rows.counts_E)
        return kernels.put_back(q_RX, rows.order_R, num_tokens, num_chosen)

    def outputs(self, y_TKX: Tensor, choice: Choice, rows: Rows) -> Tensor:
        """y_TD: what each expert makes of its heads' answers, weighed, in slot order."""
        num_tokens, num_chosen, _ = y_TKX.shape
        y_RX = y_TKX.flatten(0, 1).index_select(0, rows.order_R)
        y_RD = kernels.grouped_mm(y_RX, self.w_o_EDX, rows.counts_E)
        y_TKD = kernels.put_back(y_RD, rows.order_R, num_tokens, num_chosen)
        return torch.einsum("tkd,tk->td", y_TKD, choice.weight_TK.to(y_TKD.dtype))
