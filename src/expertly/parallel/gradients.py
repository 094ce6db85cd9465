"""Gradients of a step on several ranks: the mean over all of them, and its norm."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from expertly.parallel.placing import is_spread
from expertly.parallel.ranks import Ranks


@torch.no_grad()
def average_gradients(model: nn.Module, ranks: Ranks) -> None:
    """Afterwards a gradient is that of the mean loss over all ranks. Shards have seen to it."""
    if ranks.count == 1 or ranks.is_sharded:
        return
    assert ranks.mesh is not None
    spread = is_spread(model, ranks)
    named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
    _sum([grad for name, grad in named if not spread[name]], None)
    _sum([grad for name, grad in named if spread[name]], ranks.mesh.get_group("data"))
    for _, grad in named:
        grad.div_(ranks.count)


@torch.no_grad()
def clip_gradients(model: nn.Module, most: float, ranks: Ranks) -> float:
    """Scales gradients so that their norm, over all ranks' weights once, is at most `most`; the
    norm before."""
    parameters = list(model.parameters())
    if ranks.count == 1:
        return float(nn.utils.clip_grad_norm_(parameters, most, foreach=True))
    spread = is_spread(model, ranks)
    squares = torch.zeros((), dtype=torch.float64, device=ranks.device)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            local = _local(parameter.grad)
            squares += local.double().square().sum() / _copies(parameter, spread[name], ranks)
    norm = float(ranks.sum(squares).sqrt())
    scale = min(1.0, most / (norm + 1e-6))
    for parameter in parameters:
        if parameter.grad is not None:
            _local(parameter.grad).mul_(scale)
    return norm


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copies(parameter: Tensor, is_spread: bool, ranks: Ranks) -> int:
    """On how many ranks the same numbers are."""
    copies = 1 if is_spread else ranks.experts
    return copies if isinstance(parameter, DTensor) else copies * ranks.data


def _sum(grads: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """In place, over a group (none: all), in one exchange."""
    if not grads:
        return
    flat = torch.cat([grad.flatten() for grad in grads])
    dist.all_reduce(flat, group=group)
    for grad, total in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
        grad.copy_(total.view_as(grad))
