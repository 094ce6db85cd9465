"""Random weights to train from."""

import torch

from expertly.model.decoder import Decoder


def initialise(model: Decoder, seed: int, std: float = 0.02) -> None:
    """Matrices normal(0, std), those that end a residual branch divided by sqrt(2 L) (GPT-2);
    norms one, biases and sinks zero. In place; the same seed gives the same weights."""
    generator = torch.Generator().manual_seed(seed)
    branch_std = std / (2 * len(model.config.layers)) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            leaf = name.rpartition(".")[2]
            if "norm" in name and not leaf.startswith("bias"):
                parameter.fill_(1.0)
            elif leaf.startswith(("b_", "bias", "sinks")):
                parameter.zero_()
            else:
                ends_branch = leaf.startswith(("w_o_", "w_down_"))
                parameter.normal_(0.0, branch_std if ends_branch else std, generator=generator)
