"""What moves the bias that steers a router's choice: pure functions, outside of any gradient."""

import torch
from torch import Tensor


def stepped(bias_E: Tensor, rows_E: Tensor, rate: float) -> Tensor:
    """The bias after a step: up by `rate` for experts below the mean load, down for those above
    it (loss-free balancing, arXiv 2408.15664, algorithm 1), then recentred, as only differences
    choose. rows_E: the step's rows, of all batches and ranks, without padding."""
    load_E = rows_E.to(bias_E.dtype)
    moved_E = bias_E + rate * (load_E.mean() - load_E).sign()
    return moved_E - moved_E.mean()


def to_quantiles(bias_E: Tensor, scores_TE: Tensor, num_chosen: int) -> Tensor:
    """The bias with which these tokens would have given every expert its even share T K / E.

    With beta = -bias, alpha_t the (K + 1)-th largest of s_t - beta: a token takes an expert whose
    s - alpha is above its beta, so beta becomes the (T K / E + 1)-th largest of those, between two
    of them where T K / E is no whole number; then recentred. `scores_TE`: of real tokens alone,
    without the bias. Nothing moves without tokens, or where every expert is chosen.
    """
    num_tokens, num_experts = scores_TE.shape
    if num_tokens == 0 or num_chosen >= num_experts:
        return bias_E
    scores_TE = scores_TE.to(bias_E.dtype)
    alpha_T1 = (scores_TE + bias_E).topk(num_chosen + 1, dim=-1).values[:, -1:]
    sorted_TE = (scores_TE - alpha_T1).sort(dim=0, descending=True).values
    whole, rest = divmod(num_tokens * num_chosen, num_experts)
    upper = sorted_TE[whole]
    lower = sorted_TE[min(whole + 1, num_tokens - 1)]
    moved_E = -torch.lerp(upper, lower, rest / num_experts)
    return moved_E - moved_E.mean()


def relu_weight(weight: float, experts_a_token: float, num_chosen: float) -> float:
    """The coefficient of `balance.relu_sparsity` for the next step: 1.2 times as large while a
    token has more experts than K, else 1.2 times smaller (ReMoE, arXiv 2412.14711, equation 9)."""
    return weight * 1.2 if experts_a_token > num_chosen else weight / 1.2
