"""Random weights to train from."""

import torch

from expertly.mixture.routers import LearnedRouter
from expertly.model.decoder import Decoder


def initialise(model: Decoder, seed: int, std: float = 0.02) -> None:
    """Matrices normal(0, std), those that end a residual branch divided by sqrt(2 L) (GPT-2);
    norms and scales one, biases and sinks zero, tables of token ids drawn from all alike. In place;
    the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    branch_std = std / (2 * len(model.config.layers)) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            leaf = name.rpartition(".")[2]
            if leaf.startswith("scale_") or ("norm" in name and not leaf.startswith("bias")):
                parameter.fill_(1.0)
            elif leaf.startswith(("b_", "bias", "sinks")):
                parameter.zero_()
            else:
                ends_branch = leaf.startswith(("w_o_", "w_down_"))
                parameter.normal_(0.0, branch_std if ends_branch else std, generator=generator)
        for module in model.modules():
            if isinstance(module, LearnedRouter):
                module.draw_table(generator)
