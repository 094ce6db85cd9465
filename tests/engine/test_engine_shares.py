import torch

from expertly.engine import shares
from expertly.mixture import Routing


def test_shares_are_experts_by_weight() -> None:
    table = torch.zeros(1, 4)
    routing = Routing(
        token_R=torch.tensor([0, 0, 0]),
        slot_R=torch.tensor([1, 0, 2]),
        weight_R=torch.tensor([0.25, 0.5, 0.125]),
        counts_E=torch.tensor([1, 0, 1, 1]),
        logits_TE=table,
        probs_TE=table,
        scores_TE=table,
        mask_T=torch.tensor([True]),
        sequence_T=torch.tensor([0]),
    )
    assert shares(routing) == [(2, 0.5), (0, 0.25), (3, 0.125)]
