"""How ranks join, on torch's stand-in for other processes: backends, groups, meshes, last words."""

from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from expertly.errors import RankError, RecipeError
from expertly.parallel import joined
from expertly.parallel.ranks import PATIENCE

GPU = torch.device("cuda", 1)


@pytest.fixture
def asked(monkeypatch) -> dict[str, Any]:
    """What the first of four ranks asks of torch; nobody else is there, and no GPU."""
    found: dict[str, Any] = {"timeouts": []}
    real_init, real_group = dist.init_process_group, dist.new_group

    def init(backend: str, *, timeout: timedelta) -> None:
        found.update(backend=backend, timeout=timeout)
        real_init("fake", rank=0, world_size=4, store=FakeStore())

    def new_group(ranks: list[int], *, timeout: timedelta) -> Any:
        found["timeouts"].append(timeout)
        return real_group(ranks, timeout=timeout)

    monkeypatch.setattr(dist, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(dist, "init_process_group", init)
    monkeypatch.setattr(dist, "new_group", new_group)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.update(set=device))
    yield found
    if dist.is_initialized():
        dist.destroy_process_group()


def test_ranks_on_gpus_talk_by_nccl_and_of_scalars_by_gloo(asked) -> None:
    with joined(2, 2, is_sharded=True, device=GPU) as ranks:
        assert ranks.mesh is not None
        assert ranks.mesh.device_type == "cuda"
        assert ranks.device == GPU
    assert asked["backend"] == "cpu:gloo,cuda:nccl"
    assert asked["set"] == GPU


def test_ranks_on_processors_talk_by_gloo(asked) -> None:
    with joined(2, 2, is_sharded=False) as ranks:
        assert ranks.mesh is not None
        assert ranks.mesh.device_type == ranks.device.type == "cpu"
    assert asked["backend"] == "gloo"
    assert "set" not in asked


@pytest.mark.parametrize("device", [torch.device("cpu"), GPU])
def test_every_group_gives_a_silent_rank_the_same_time(device, asked) -> None:
    with joined(2, 2, is_sharded=False, device=device):
        pass
    assert {asked["timeout"], *asked["timeouts"]} == {PATIENCE}
    assert len(asked["timeouts"]) == 4


@pytest.mark.parametrize(
    ("experts", "data", "of_experts", "of_data"),
    [(2, 2, [0, 1], [0, 2]), (4, 1, [0, 1, 2, 3], [0]), (1, 4, [0], [0, 1, 2, 3])],
)
def test_expert_ranks_lie_side_by_side(experts, data, of_experts, of_data, asked) -> None:
    with joined(experts, data, is_sharded=False) as ranks:
        assert ranks.mesh is not None
        assert dist.get_process_group_ranks(ranks.mesh.get_group("experts")) == of_experts
        assert dist.get_process_group_ranks(ranks.mesh.get_group("data")) == of_data
        assert ranks.mesh["data"].get_group() is ranks.mesh.get_group("data")


@pytest.mark.parametrize(
    "error",
    [
        dist.DistBackendError("NCCL communicator was aborted on rank 0."),
        RuntimeError("[Rank 0] Watchdog caught collective operation timeout: NCCL"),
        RuntimeError("[enforce fail at gloo/transport/tcp/pair.cc] Connection closed by peer"),
    ],
)
def test_whatever_says_that_a_rank_is_gone_ends_the_run_with_one_line(error, asked) -> None:
    with (
        pytest.raises(RankError, match="rank 0 of 4 ends: another one is gone or silent"),
        joined(2, 2, is_sharded=False, device=GPU),
    ):
        raise error


def test_other_errors_are_left_as_they_are(asked) -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), joined(2, 2, is_sharded=False):
        raise RuntimeError("shapes differ")


def test_another_number_of_processes_is_refused_once_they_have_joined(asked) -> None:
    with (
        pytest.raises(RecipeError, match="3 times data 2 are 6 processes, and 4 run"),
        joined(3, 2, is_sharded=False),
    ):
        raise AssertionError("joined")


def test_a_process_alone_has_its_device_and_no_mesh() -> None:
    with joined(1, 1, is_sharded=False, device=GPU) as ranks:
        assert (ranks.device, ranks.mesh, ranks.count) == (GPU, None, 1)
        assert [ranks.any(flag) for flag in (False, True)] == [False, True]


def test_whether_any_rank_says_so_is_asked_of_all(asked, monkeypatch) -> None:
    with joined(2, 2, is_sharded=False, device=GPU) as ranks:
        devices = []
        monkeypatch.setattr(
            dist, "all_reduce", lambda x, **_: devices.append(x.device.type) or x.add_(1)
        )
        assert ranks.any(False) is True
        assert ranks.means(3.0, 7.0) == [1.0, 2.0]
        rows, more = ranks.sums([torch.tensor([1, 2]), torch.tensor([[3]])])
        assert (rows.tolist(), more.tolist()) == ([2, 3], [[4]])
        # by gloo: a GPU need not be asked for what the process decides by
        assert devices == ["cpu"] * 3
