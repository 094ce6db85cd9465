"""Tensors written one at a time: files that safetensors opens, cut where they should be."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from expertly.checkpoint.shards import find
from expertly.checkpoint.streaming import Planned, write_shards

KINDS = (torch.float32, torch.bfloat16, torch.float16)


def planned(name: str, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Planned:
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randn(shape, generator=generator).to(dtype)
    return Planned(name, shape, dtype, lambda: tensor)


def test_one_file_holds_what_was_made(tmp_path: Path) -> None:
    tensors = [planned("a", 3, 5), planned("b", 7, seed=1)]
    write_shards(tmp_path, tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    assert list(loaded) == ["a", "b"]
    assert all(torch.equal(loaded[tensor.name], tensor.make()) for tensor in tensors)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.sampled_from(KINDS)), min_size=1, max_size=8),
    max_bytes=st.integers(1, 100),
)
def test_any_shapes_and_types_come_back_from_any_shards(
    sizes: list[tuple[int, torch.dtype]],
    max_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tensors = [
        planned(f"t{i}", 2, size, dtype=kind, seed=i) for i, (size, kind) in enumerate(sizes)
    ]
    write_shards(folder, tensors, max_shard_bytes=max_bytes)
    loaded: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        loaded |= load_file(path)
    assert set(loaded) == {tensor.name for tensor in tensors} == set(find(folder))
    for tensor in tensors:
        assert loaded[tensor.name].dtype == tensor.dtype
        assert torch.equal(loaded[tensor.name], tensor.make())


def test_shards_are_cut_before_they_grow_too_large_and_the_index_names_them(
    tmp_path: Path,
) -> None:
    # 40, 40, 80 and 20 bytes: two together, one too large for any, one left
    tensors = [planned("a", 10), planned("b", 10), planned("c", 20), planned("d", 5)]
    write_shards(tmp_path, tensors, max_shard_bytes=79 + 1)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    one, two, three = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    assert index["weight_map"] == {"a": one, "b": one, "c": two, "d": three}
    assert index["metadata"]["total_size"] == 180
    assert sorted(load_file(tmp_path / one)) == ["a", "b"]


def test_wide_types_come_first_so_that_each_tensor_is_aligned(tmp_path: Path) -> None:
    write_shards(tmp_path, [planned("half", 3, dtype=torch.bfloat16), planned("whole", 2)])
    entries = find(tmp_path)
    assert entries["whole"].offset % 8 == 0
    assert entries["half"].offset == entries["whole"].offset + 8


def test_progress_counts_bytes_up_to_all_of_them(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    tensors = [planned("a", 10), planned("b", 5), planned("c", 1)]
    write_shards(tmp_path, tensors, max_shard_bytes=44, progress=lambda *pair: seen.append(pair))
    assert seen == [(40, 64), (60, 64), (64, 64)]


def test_a_tensor_is_made_when_its_turn_comes_and_let_go(tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str) -> torch.Tensor:
        # what was made before is in the file already
        written = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
        assert written >= 4_000_000 * max(0, len(made) - 1)
        made.append(name)
        return torch.zeros(1_000_000)

    tensors = [
        Planned(n, (1_000_000,), torch.float32, lambda n=n: make(n)) for n in ("a", "b", "c")
    ]
    assert made == []
    write_shards(tmp_path, tensors)
    assert made == ["a", "b", "c"]


def test_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    write_shards(tmp_path, [Planned("t", (4, 3), torch.float32, lambda: whole.T)])
    assert torch.equal(load_file(tmp_path / "model.safetensors")["t"], whole.T)
