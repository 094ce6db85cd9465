"""The mixture layer: route, compute the chosen experts, add the shared one."""

import torch
from torch import Tensor, nn

from expertly.config import Mixture
from expertly.mixture.experts import Experts, FeedForward, empty
from expertly.mixture.routers import choose
from expertly.mixture.routing import Choice, Routing, Tokens, sort_rows, to_routing


class LearnedRouter(nn.Module):
    """Logits are a linear map of the token, in float32 whatever the model's type."""

    def __init__(self, hidden_size: int, mixture: Mixture, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_chosen = mixture.num_chosen
        self.rule = mixture.router
        self.w_ED = empty(mixture.num_experts, hidden_size, dtype=dtype)
        self.b_E = empty(mixture.num_experts, dtype=dtype) if mixture.router.has_bias else None

    def forward(self, x_TD: Tensor) -> Choice:
        bias_E = None if self.b_E is None else self.b_E.float()
        with torch.autocast(x_TD.device.type, enabled=False):
            logits_TE = nn.functional.linear(x_TD.float(), self.w_ED.float(), bias_E)
            return choose(logits_TE, self.num_chosen, self.rule)


class MixtureLayer(nn.Module):
    def __init__(self, hidden_size: int, mixture: Mixture, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_experts = mixture.num_experts
        self.router = LearnedRouter(hidden_size, mixture, dtype)
        self.experts = Experts(hidden_size, mixture, dtype)
        self.shared: FeedForward | None = None
        self.w_shared_gate_D: nn.Parameter | None = None
        if mixture.shared_size:
            self.shared = FeedForward(hidden_size, mixture.shared_size, mixture.glu, False, dtype)
        if mixture.has_shared_gate:
            self.w_shared_gate_D = empty(hidden_size, dtype=dtype)

    def forward(self, x_TD: Tensor, tokens: Tokens | None) -> tuple[Tensor, Routing | None]:
        """y_TD, and the routing if `tokens` are given: without them nobody asked for it."""
        choice = self.router(x_TD)
        rows = sort_rows(choice.ids_TK, self.num_experts)
        y_TD = self.experts(x_TD, rows, choice.weight_TK)
        if self.shared is not None:
            y_TD = y_TD + self._share(self.shared(x_TD), x_TD)
        return y_TD, None if tokens is None else to_routing(choice, rows, tokens)

    def _share(self, y_TD: Tensor, x_TD: Tensor) -> Tensor:
        if self.w_shared_gate_D is None:
            return y_TD
        return y_TD * torch.sigmoid(x_TD @ self.w_shared_gate_D).unsqueeze(-1)
