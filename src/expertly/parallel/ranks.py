"""The processes of a run: who they are, and what they tell each other.

Every rank computes its own part of each batch. Experts are spread over `experts` ranks, of which
there are `data` sets; all else is on every rank, or in shards over the `data` ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from expertly.errors import RankError, RecipeError

# a rank that says nothing for so long is gone
PATIENCE = timedelta(seconds=20)


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """`mesh` has the dimensions "experts" and "data"; there is none for a process alone."""

    rank: int = 0
    experts: int = 1
    data: int = 1
    is_sharded: bool = False
    mesh: DeviceMesh | None = None

    @property
    def count(self) -> int:
        return self.experts * self.data

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def expert_rank(self) -> int:
        return self.rank % self.experts

    def own(self, ids_BS: Tensor) -> Tensor:
        """This rank's sequences of a batch."""
        return ids_BS.chunk(self.count)[self.rank] if self.count > 1 else ids_BS

    def sum(self, x: Tensor) -> Tensor:
        """The same on every rank."""
        if self.count == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, value: float) -> float:
        if self.count == 1:
            return value
        return float(self.sum(torch.tensor(value, dtype=torch.float64))) / self.count

    def gather(self, x_T: Tensor) -> Tensor:
        """Rows of all ranks, which are as many on each, in the ranks' order."""
        if self.count == 1:
            return x_T
        parts = [torch.empty_like(x_T) for _ in range(self.count)]
        dist.all_gather(parts, x_T.contiguous())
        return torch.cat(parts)

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


ALONE = Ranks()


@contextmanager
def joined(experts: int, data: int, *, is_sharded: bool) -> Iterator[Ranks]:
    """The ranks of a run that torchrun began, or the process alone.

    Raises RecipeError for another number of processes than experts * data, RankError when one of
    the others is gone.
    """
    if not dist.is_torchelastic_launched():
        _check(experts, data, 1)
        yield ALONE
        return
    rank = -1
    try:
        dist.init_process_group("gloo", timeout=PATIENCE)
        rank = dist.get_rank()
        _check(experts, data, dist.get_world_size())
        yield _ranks(experts, data, is_sharded)
        # nobody leaves while another's last words are under way
        dist.barrier()
        dist.destroy_process_group()
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RankError(
            f"rank {rank} of {experts * data} ends: another one is gone or silent",
            hint="see what that one said; then go on with the same command and --resume",
        ) from error


def _ranks(experts: int, data: int, is_sharded: bool) -> Ranks:
    # the ranks of a node come one after another: rows travel most, so expert ranks lie side by side
    numbers = torch.arange(experts * data).view(data, experts).T.contiguous()
    mesh = DeviceMesh("cpu", numbers, mesh_dim_names=("experts", "data"))
    return Ranks(rank=dist.get_rank(), experts=experts, data=data, is_sharded=is_sharded, mesh=mesh)


def _check(experts: int, data: int, count: int) -> None:
    if count != experts * data:
        raise RecipeError(
            f"[ranks] experts {experts} times data {data} are {experts * data} processes, "
            f"and {count} {'runs' if count == 1 else 'run'}",
            hint=f"torchrun --nproc-per-node {experts * data} -m expertly train RECIPE",
        )
