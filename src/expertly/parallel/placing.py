"""Which part of a model's weights a rank has, and the whole of them again."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from expertly.errors import RecipeError
from expertly.mixture.experts import Experts
from expertly.parallel.dispatcher import AllToAll
from expertly.parallel.ranks import Ranks


def place(model: nn.Module, ranks: Ranks) -> None:
    """Leaves in `model`, whole on every rank, what is this rank's: its experts, and its shards of
    all weights if they are to be sharded; on this rank's device.

    Raises RecipeError for experts that cannot be shared out evenly.
    """
    if ranks.experts > 1:
        for experts in _all_experts(model):
            _keep_own(experts, ranks)
    if ranks.is_sharded:
        # shard after shard, so that a device never has the whole model
        _shard(model, ranks)
    model.to(ranks.device)


def is_spread(model: nn.Module, ranks: Ranks) -> dict[str, bool]:
    """By parameter: whether ranks have different experts of it."""
    names = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if isinstance(module, Experts)
        for name, _ in module.named_parameters()
    }
    return {name: ranks.experts > 1 and name in names for name, _ in model.named_parameters()}


def localise(full: Tensor, like: Tensor, is_spread: bool, ranks: Ranks) -> Tensor:
    """This rank's part of a whole tensor that is laid out as the parameter `like`."""
    if full.dim() == 0:
        return full
    part = _own(full, ranks) if is_spread else full
    if not isinstance(like, DTensor):
        return part.clone()
    return distribute_tensor(part, like.device_mesh, like.placements, src_data_rank=None)


def spread_out(tensor: Tensor, is_spread: bool, ranks: Ranks) -> Tensor:
    """The whole tensor, as torch's distributed tensors see it, of which this is a rank's part."""
    if not is_spread or tensor.dim() == 0:
        return tensor
    is_sharded = isinstance(tensor, DTensor)
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    assert ranks.mesh is not None
    placements = (Shard(0), Shard(0) if is_sharded else Replicate())
    shape = torch.Size((tensor.shape[0] * ranks.experts, *tensor.shape[1:]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        local, ranks.mesh, placements, run_check=False, shape=shape, stride=stride
    )


def whole_tensors(model: nn.Module, ranks: Ranks) -> Iterator[tuple[str, Tensor]]:
    """Every parameter and buffer as it is without ranks, one after the other; all ranks ask."""
    spread = is_spread(model, ranks)
    for name, tensor in model.state_dict().items():
        found = spread_out(tensor, spread.get(name, False), ranks)
        yield name, found.full_tensor() if isinstance(found, DTensor) else found


def _all_experts(model: nn.Module) -> Iterator[Experts]:
    return (module for module in model.modules() if isinstance(module, Experts))


def _keep_own(experts: Experts, ranks: Ranks) -> None:
    if experts.num_experts % ranks.experts:
        raise RecipeError(
            f"{experts.num_experts} experts on {ranks.experts} ranks: each needs as many",
            hint=f"set [ranks] experts to a divisor of {experts.num_experts}",
        )
    assert ranks.mesh is not None
    experts.dispatcher = AllToAll(ranks.mesh.get_group("experts"))
    for name, parameter in list(experts.named_parameters()):
        setattr(experts, name, nn.Parameter(_own(parameter.data, ranks).clone()))


def _own(full_E: Tensor, ranks: Ranks) -> Tensor:
    return full_E.chunk(ranks.experts)[ranks.expert_rank]


def _shard(model: nn.Module, ranks: Ranks) -> None:
    """Weights in shards over the data ranks; what is the same on the expert ranks is kept in step
    there. Gradients are means over all ranks."""
    assert ranks.mesh is not None
    data = ranks.mesh["data"]
    mesh = ranks.mesh if ranks.experts > 1 else data
    if ranks.experts > 1:
        for experts in _all_experts(model):
            # rows of all ranks meet here, so the sum over data ranks is one over all of them
            sharded = fully_shard(experts, mesh=data)
            # gloo has no sums that are scaled on the way
            sharded.set_force_sum_reduction_for_comms(True)
            sharded.set_gradient_divide_factor(float(ranks.count))
    for layer in model.get_submodule("layers").children():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
