"""The state of a run in parts: what of it each rank has, and the whole of it again."""

import torch
from torch import Tensor

from expertly.model import Decoder
from expertly.parallel import Ranks, is_spread, localise, whole_tensors
from expertly.train.state import State, optimiser_tensors

OPTIMISER = "optimiser."


def parts(state: State, ranks: Ranks) -> dict[str, tuple[Tensor, bool]]:
    """Weights, buffers and moments of this rank by name, and whether ranks have different ones."""
    spread = is_spread(state.model, ranks)
    found = {
        name: (tensor.detach(), spread.get(name, False))
        for name, tensor in state.model.state_dict().items()
    }
    for name, moment in optimiser_tensors(state).items():
        found[OPTIMISER + name] = (moment, spread[name.rpartition(".")[0]])
    return found


def add_moments(state: State, names: list[str]) -> None:
    """Room in the optimisers for the moments of these names (parameter, dot, moment)."""
    parameters = dict(state.model.named_parameters())
    for name in names:
        owner, _, moment = name.rpartition(".")
        parameter = parameters[owner]
        optimiser = next(o for o in state.optimisers if _has(o, parameter))
        # a count of steps is where its parameter is, as the fused AdamW has it
        is_count = moment == "step"
        room = torch.zeros((), device=parameter.device) if is_count else torch.zeros_like(parameter)
        optimiser.state[parameter][moment] = room.detach()


def local_moments(tensors: dict[str, Tensor], model: Decoder, ranks: Ranks) -> dict[str, Tensor]:
    """This rank's parts of whole moments."""
    spread, parameters = is_spread(model, ranks), dict(model.named_parameters())
    found = {}
    for name, moment in tensors.items():
        owner = name.rpartition(".")[0]
        found[name] = localise(moment, parameters[owner], spread[owner], ranks)
    return found


def whole_model(model: Decoder, ranks: Ranks) -> Decoder:
    """A model with all weights, on the first rank; all ranks have to ask."""
    if ranks.count == 1:
        return model
    whole = Decoder(model.config, dtype=model.embed_VD.dtype)
    room = whole.state_dict()
    for name, tensor in whole_tensors(model, ranks):
        room[name].copy_(tensor)
    whole.tokenizer = model.tokenizer
    return whole


def _has(optimiser: torch.optim.Optimizer, parameter: Tensor) -> bool:
    return any(p is parameter for group in optimiser.param_groups for p in group["params"])
