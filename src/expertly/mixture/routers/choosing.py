"""Which rule makes the choice; see `config.Router` for what the rules are."""

from torch import Tensor

from expertly.config import Router
from expertly.mixture.routers.expert_choice import expert_choice
from expertly.mixture.routers.hashing import by_table
from expertly.mixture.routers.relu import relu
from expertly.mixture.routers.sparsemixer import sparsemixer
from expertly.mixture.routers.top_k import top_k
from expertly.mixture.routing import Choice, Tokens, all_tokens


def choose(
    logits_TE: Tensor,
    num_chosen: int,
    router: Router,
    *,
    tokens: Tokens | None = None,
    is_training: bool = False,
    noisy_TE: Tensor | None = None,
    steer_E: Tensor | None = None,
    table_VK: Tensor | None = None,
    num_experts: int | None = None,
) -> Choice:
    """The choice that `router` makes from `logits_TE` (float32).

    tokens: which are padding and where sequences end (without: one sequence of tokens alone).
    noisy_TE: the logits with a noise that the choice and the weights take in; steer_E: what is
    added to scores for the choice alone; table_VK: the experts of each token id, for hash.
    num_experts: how many of E are experts with a capacity, the first (without: all).
    """
    tokens = tokens or all_tokens(logits_TE)
    if router.rule == "sparsemixer":
        return sparsemixer(logits_TE, num_chosen, router.jitter, is_training)
    if router.rule == "expert_choice":
        return expert_choice(logits_TE, num_chosen, tokens.mask_T)
    if router.rule == "relu":
        return relu(logits_TE)
    if router.rule == "hash":
        assert table_VK is not None and tokens.ids_T is not None, "hash needs token ids"
        return by_table(logits_TE, table_VK[tokens.ids_T], router)
    return top_k(
        logits_TE,
        num_chosen,
        router,
        tokens,
        is_training,
        noisy_TE=noisy_TE,
        steer_E=steer_E,
        num_experts=num_experts or logits_TE.shape[1],
    )
