"""Rows to the ranks that have their experts, and answers back: one exchange each way."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from expertly import kernels
from expertly.mixture.dispatch import Arrived


class AllToAll:
    """Experts in equal parts over the ranks of a group, the first rank has the first ones."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self._size = dist.get_world_size(group)

    def send(self, x_RD: Tensor, counts_E: Tensor) -> Arrived:
        leaving_NE = counts_E.view(self._size, -1)
        coming_NE = torch.empty_like(leaving_NE)
        dist.all_to_all_single(coming_NE, leaving_NE.contiguous(), group=self._group)
        # at once: on a GPU the process waits here
        leaving, coming = torch.stack((leaving_NE.sum(1), coming_NE.sum(1))).tolist()
        num, device = leaving_NE.shape[1], x_RD.device
        x_XD = _exchange(x_RD, leaving, coming, self._group)
        # by source and expert as they come; by expert alone for whoever computes
        expert_X = torch.arange(num, device=device).repeat(self._size)
        expert_X = expert_X.repeat_interleave(coming_NE.flatten(), output_size=sum(coming))
        order_X, counts = kernels.sort_places(expert_X, num)
        places_X = torch.arange(len(order_X), device=device)
        place_X = torch.empty_like(order_X).scatter_(0, order_X, places_X)

        def back(y_XD: Tensor) -> Tensor:
            return _exchange(y_XD.index_select(0, place_X), coming, leaving, self._group)

        return Arrived(x_XD.index_select(0, order_X), counts, back)


def _exchange(
    x_RD: Tensor, leaving: list[int], coming: list[int], group: dist.ProcessGroup
) -> Tensor:
    found: Tensor = _Exchange.apply(x_RD, leaving, coming, group)  # type: ignore[no-untyped-call]
    return found


class _Exchange(torch.autograd.Function):
    """Uneven parts of rows to every rank; gradients take the way back."""

    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, leaving: list[int], coming: list[int], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.ways = (coming, leaving, group)
        return _travel(x_RD, leaving, coming, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _travel(grads[0], *ctx.ways), None, None, None


def _travel(
    x_RD: Tensor, leaving: list[int], coming: list[int], group: dist.ProcessGroup
) -> Tensor:
    arrived = x_RD.new_empty(sum(coming), x_RD.shape[1])
    dist.all_to_all_single(arrived, x_RD.contiguous(), coming, leaving, group=group)
    return arrived
