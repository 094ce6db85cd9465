"""Every expert whose logit is positive, weighed by that logit (ReMoE, arXiv 2412.14711)."""

from torch import Tensor

from expertly.mixture.routing import Choice, of_table


def relu(logits_TE: Tensor) -> Choice:
    """As many experts a token as have a positive logit, perhaps none."""
    weight_TE = logits_TE.relu()
    ids_TK, kept_TK = of_table(weight_TE > 0, weight_TE)
    return Choice(ids_TK, weight_TE.gather(-1, ids_TK), logits_TE, weight_TE, weight_TE, kept_TK)
