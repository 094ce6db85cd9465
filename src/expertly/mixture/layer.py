"""The mixture layer: route, compute the chosen experts, add the shared one."""

import torch
from torch import Tensor, nn

from expertly.config import Mixture
from expertly.mixture.experts import Experts, FeedForward, empty
from expertly.mixture.routers import LearnedRouter
from expertly.mixture.routing import Routing, Tokens, sort_rows, to_routing


class MixtureLayer(nn.Module):
    """`vocab_size` is needed by routers that go by token ids."""

    def __init__(
        self, hidden_size: int, mixture: Mixture, dtype: torch.dtype, vocab_size: int | None = None
    ) -> None:
        super().__init__()
        self.num_choices = mixture.num_choices
        self.router = LearnedRouter(hidden_size, mixture, dtype, vocab_size)
        self.experts = Experts(hidden_size, mixture, dtype)
        self.shared: FeedForward | None = None
        self.w_shared_gate_D: nn.Parameter | None = None
        self.b_D = empty(hidden_size, dtype=dtype) if mixture.has_output_bias else None
        if mixture.shared_size:
            self.shared = FeedForward(hidden_size, mixture.shared_size, mixture.glu, False, dtype)
        if mixture.has_shared_gate:
            self.w_shared_gate_D = empty(hidden_size, dtype=dtype)

    def forward(
        self, x_TD: Tensor, tokens: Tokens | None, is_asked: bool = True
    ) -> tuple[Tensor, Routing | None]:
        """y_TD, and the routing if it is asked for and `tokens` are known; without them all are
        of one sequence, and none is padding."""
        choice = self.router(x_TD, tokens)
        rows = sort_rows(choice.ids_TK, self.num_choices, choice.kept_TK)
        y_TD = self.experts(x_TD, rows, choice.weight_TK)
        if self.shared is not None:
            y_TD = y_TD + self._share(self.shared(x_TD), x_TD)
        if self.b_D is not None:
            y_TD = y_TD + self.b_D
        if tokens is None or not is_asked:
            return y_TD, None
        return y_TD, to_routing(choice, rows, tokens)

    def _share(self, y_TD: Tensor, x_TD: Tensor) -> Tensor:
        if self.w_shared_gate_D is None:
            return y_TD
        return y_TD * torch.sigmoid(x_TD @ self.w_shared_gate_D).unsqueeze(-1)
