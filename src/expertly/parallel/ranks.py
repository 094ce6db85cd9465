"""The processes of a run: who they are, where they compute, and what they tell each other.

Every rank computes its own part of each batch. Experts are spread over `experts` ranks, of which
there are `data` sets; all else is on every rank, or in shards over the `data` ranks. Tensors on
processors travel by gloo, scalars among them, those on GPUs by NCCL (not yet run on a GPU).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from expertly.errors import RankError, RecipeError
from expertly.parallel.devices import CPU

# a rank that says nothing for so long is gone
PATIENCE = timedelta(seconds=20)
_BACKENDS = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
_SPEAKERS = ("gloo", "NCCL")  # as their errors name them


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """`mesh` has the dimensions "experts" and "data"; there is none for a process alone."""

    rank: int = 0
    experts: int = 1
    data: int = 1
    is_sharded: bool = False
    device: torch.device = CPU
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

    def sums(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Of each, of one type and device, in one exchange."""
        if self.count == 1 or not parts:
            return list(parts)
        whole = self.sum(torch.cat([part.flatten() for part in parts]))
        totals = torch.split(whole, [part.numel() for part in parts])
        return [total.view_as(part) for total, part in zip(totals, parts, strict=True)]

    def means(self, *values: float) -> list[float]:
        if self.count == 1:
            return list(values)
        totals: list[float] = self.sum(torch.tensor(values, dtype=torch.float64)).tolist()
        return [total / self.count for total in totals]

    def any(self, flag: bool) -> bool:
        """Whether it is true on some rank."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(int(flag))))

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
def joined(
    experts: int, data: int, *, is_sharded: bool, device: torch.device = CPU
) -> Iterator[Ranks]:
    """The ranks of a run that torchrun began, or the process alone; `device` is this one's.

    Raises RecipeError for another number of processes than experts * data, RankError when one of
    the others is gone.
    """
    if not dist.is_torchelastic_launched():
        _check(experts, data, 1)
        yield Ranks(device=device)
        return
    rank = -1
    try:
        if device.type == "cuda":
            # what NCCL takes for this process's GPU
            torch.cuda.set_device(device)
        dist.init_process_group(_BACKENDS[device.type], timeout=PATIENCE)
        rank = dist.get_rank()
        _check(experts, data, dist.get_world_size())
        yield _ranks(experts, data, is_sharded, device)
        # nobody leaves while another's last words are under way
        dist.barrier()
        dist.destroy_process_group()
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or any(n in str(error) for n in _SPEAKERS)):
            raise
        raise RankError(
            f"rank {rank} of {experts * data} ends: another one is gone or silent",
            hint="see what that one said; then go on with the same command and --resume",
        ) from error


def _ranks(experts: int, data: int, is_sharded: bool, device: torch.device) -> Ranks:
    # the ranks of a node come one after another: rows travel most, so expert ranks lie side by side
    numbers = torch.arange(experts * data).view(data, experts).T.contiguous()
    # a mesh that makes its groups itself gives them minutes to notice that a rank is gone
    groups = [_group(numbers.T.tolist()), _group(numbers.tolist())]
    mesh = DeviceMesh.from_group(
        groups, device.type, mesh=numbers, mesh_dim_names=("experts", "data")
    )
    return Ranks(
        rank=dist.get_rank(),
        experts=experts,
        data=data,
        is_sharded=is_sharded,
        device=device,
        mesh=mesh,
    )


def _group(members: list[list[int]]) -> dist.ProcessGroup:
    """Of these disjoint groups the one that this rank is in."""
    groups = [dist.new_group(ranks, timeout=PATIENCE) for ranks in members]
    found = [group for group in groups if isinstance(group, dist.ProcessGroup)]
    return found[0]


def _check(experts: int, data: int, count: int) -> None:
    if count != experts * data:
        raise RecipeError(
            f"[ranks] experts {experts} times data {data} are {experts * data} processes, "
            f"and {count} {'runs' if count == 1 else 'run'}",
            hint=f"torchrun --nproc-per-node {experts * data} -m expertly train RECIPE",
        )
