"""The router of a layer: its parameters, and its logits."""

import torch
from torch import Tensor, nn

from expertly.config import HeadExperts, Mixture
from expertly.mixture.experts import empty
from expertly.mixture.routers.choosing import choose
from expertly.mixture.routers.noise import jittered, noisy
from expertly.mixture.routing import Choice, Tokens

linear = nn.functional.linear


class LearnedRouter(nn.Module):
    """Logits are a linear map of the token, in float32 whatever the model's type.

    `b_steer_E` (float32, added to scores for the choice alone) and `table_VK` (int64, of a hash)
    are not learned by gradients but belong to the weights all the same.
    """

    b_steer_E: Tensor | None
    table_VK: Tensor | None

    def __init__(
        self,
        hidden_size: int,
        mixture: Mixture | HeadExperts,
        dtype: torch.dtype,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        rule, E = mixture.router, mixture.num_choices
        self.num_chosen = mixture.num_chosen
        self.num_experts, self.num_choices = mixture.num_experts, E
        self.rule = rule
        self.w_ED = empty(E, hidden_size, dtype=dtype) if rule.score != "uniform" else None
        self.b_E = empty(E, dtype=dtype) if rule.has_bias else None
        self.w_noise_ED = empty(E, hidden_size, dtype=dtype) if rule.has_noise else None
        self.scale_D = empty(hidden_size, dtype=dtype) if rule.norm_eps is not None else None
        self.scale_E = empty(E, dtype=dtype) if rule.has_expert_scale else None
        steer_E = torch.zeros(E) if rule.has_steering_bias else None
        self.register_buffer("b_steer_E", steer_E)
        table_VK = None
        if rule.rule == "hash":
            assert vocab_size is not None, "a hash needs to know the vocabulary"
            table_VK = torch.zeros(vocab_size, mixture.num_chosen, dtype=torch.int64)
        self.register_buffer("table_VK", table_VK)

    def forward(self, x_TD: Tensor, tokens: Tokens | None = None) -> Choice:
        with torch.autocast(x_TD.device.type, enabled=False):
            return self._choose(x_TD.float(), tokens)

    def _choose(self, x_TD: Tensor, tokens: Tokens | None) -> Choice:
        x_TD = self._prepared(x_TD)
        logits_TE = self._logits(x_TD)
        noisy_TE = None
        if self.training and self.w_noise_ED is not None:
            noisy_TE = noisy(logits_TE, linear(x_TD, self.w_noise_ED.float()))
        choice = choose(
            logits_TE,
            self.num_chosen,
            self.rule,
            tokens=tokens,
            is_training=self.training,
            noisy_TE=noisy_TE,
            steer_E=self.b_steer_E,
            table_VK=self.table_VK,
            num_experts=self.num_experts,
        )
        if self.scale_E is None:
            return choice
        scale_TK = self.scale_E.float()[choice.ids_TK]
        return choice._replace(weight_TK=choice.weight_TK * scale_TK)

    def draw_table(self, generator: torch.Generator) -> None:
        """In a hash: K distinct experts for each token id, every set as likely as another."""
        if self.table_VK is not None:
            order_VE = torch.rand(
                len(self.table_VK), self.num_choices, generator=generator
            ).argsort(-1)
            self.table_VK.copy_(order_VE[:, : self.num_chosen])

    def _prepared(self, x_TD: Tensor) -> Tensor:
        """What the logits are read from: the token, normed or shaken if the rule says so."""
        if self.scale_D is not None:
            size = x_TD.shape[-1]
            normed_TD = nn.functional.rms_norm(x_TD, (size,), None, self.rule.norm_eps)
            x_TD = normed_TD * self.scale_D.float() * size**-0.5
        if self.training and self.rule.input_jitter:
            x_TD = jittered(x_TD, self.rule.input_jitter)
        return x_TD

    def _logits(self, x_TD: Tensor) -> Tensor:
        if self.w_ED is None:
            return x_TD.new_zeros(x_TD.shape[0], self.num_choices)
        bias_E = None if self.b_E is None else self.b_E.float()
        return linear(x_TD, self.w_ED.float(), bias_E)
