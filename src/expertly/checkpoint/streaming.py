"""Tensors into safetensors files, each made when its turn comes: memory is one tensor, whatever
the model's size."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_ALIGNMENT = 8

# bytes done, of all
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written: `make` gives it, of this shape and type."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_shards(
    folder: Path,
    tensors: Sequence[Planned],
    *,
    max_shard_bytes: int = 4_000_000_000,
    progress: Progress | None = None,
) -> None:
    """The tensors into `folder`, as model.safetensors or as shards with an index; a shard is
    larger than `max_shard_bytes` only if a single tensor is."""
    shards = list(_shards(tensors, max_shard_bytes))
    names = _file_names(len(shards))
    done, total = 0, sum(tensor.num_bytes for tensor in tensors)
    for name, shard in zip(names, shards, strict=True):
        for size in _write_shard(folder / name, shard):
            done += size
            if progress is not None:
                progress(done, total)
    if len(shards) > 1:
        weight_map = {
            tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        }
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _file_names(count: int) -> list[str]:
    if count == 1:
        return ["model.safetensors"]
    width = max(5, len(str(count)))
    return [f"model-{i + 1:0{width}}-of-{count:0{width}}.safetensors" for i in range(count)]


def _shards(tensors: Sequence[Planned], max_bytes: int) -> Iterator[list[Planned]]:
    shard: list[Planned] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.num_bytes > max_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.num_bytes
    yield shard


def _write_shard(path: Path, shard: Sequence[Planned]) -> Iterator[int]:
    """Writes a file and yields the bytes of each tensor as it is done."""
    # wide types first, so that every tensor is aligned to its own
    ordered = sorted(shard, key=lambda tensor: -tensor.dtype.itemsize)
    with path.open("wb") as stream:
        header = _header(ordered)
        stream.write(len(header).to_bytes(8, "little") + header)
        for planned in ordered:
            tensor = planned.make()
            assert tuple(tensor.shape) == planned.shape and tensor.dtype == planned.dtype
            stream.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            yield planned.num_bytes


def _header(tensors: Sequence[Planned]) -> bytes:
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.num_bytes
        fields[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(fields).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)
