"""Tensors in a folder of safetensors files, read with plain reads straight into place.

The safetensors library checks each header; reading instead of mapping means that a file which
shrinks meanwhile is an error and not a crash, and that no page of it stays in memory.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from expertly.errors import CheckpointError

_FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES = {**_FLOATS, "U8": torch.uint8, "I64": torch.int64}
_INDEX = "model.safetensors.index.json"
_AGAIN = "download or copy the model again"


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies."""

    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError if it is missing or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", hint="give a model's folder") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint=_AGAIN) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object", hint=_AGAIN)
    return content


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{path} cannot be read: {error.strerror or error}", hint=_AGAIN)


def find(folder: Path) -> dict[str, Entry]:
    """Every tensor of the folder's checkpoint by name. Raises CheckpointError for a missing or
    damaged file, a name in two files, and an index that names files elsewhere."""
    entries: dict[str, Entry] = {}
    for file in _files(folder):
        for name, entry in _header(file).items():
            if name in entries:
                raise CheckpointError(
                    f"tensor {name} is in both {entries[name].file.name} and {file.name}",
                    hint="keep one set of safetensors files in the folder",
                )
            entries[name] = entry
    return entries


def _files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.exists():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{index} has no weight_map", hint=_AGAIN)
        names = sorted({str(name) for name in weight_map.values()})
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index} points outside its folder", hint=_AGAIN)
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{folder} holds no .safetensors file", hint="give a folder with a model's weights"
        )
    return files


def _header(file: Path) -> dict[str, Entry]:
    if not file.exists():
        raise CheckpointError(f"shard {file} is missing", hint=_AGAIN)
    try:
        # opening checks sizes, overlaps, holes and types
        with safe_open(file, framework="pt"):
            pass
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(size))
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"shard {file} is damaged: {error}", hint=_AGAIN) from None
    header.pop("__metadata__", None)
    return {name: _entry(file, name, info, 8 + size) for name, info in header.items()}


def _entry(file: Path, name: str, info: dict[str, Any], start: int) -> Entry:
    if info["dtype"] not in _DTYPES:
        raise of_type(file, name, info["dtype"])
    shape = tuple(info["shape"])
    return Entry(file, _DTYPES[info["dtype"]], shape, start + info["data_offsets"][0])


def of_type(file: Path, name: str, kind: str) -> CheckpointError:
    return CheckpointError(
        f"tensor {name} in {file.name} is of type {kind}",
        hint=f"give weights of type {', '.join(_FLOATS)}",
    )


class Reader:
    """Reads entries, from several threads if need be; keeps the files it opened open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fds: dict[Path, int] = {}

    def read_into(self, target: Tensor, name: str, entry: Entry) -> None:
        """Fill a contiguous tensor of the entry's type and number of elements."""
        assert target.is_contiguous() and target.dtype == entry.dtype
        self.read_range(target.detach().view(-1).view(torch.uint8).numpy(), name, entry, 0)

    def read_range(self, target: NDArray[np.uint8], name: str, entry: Entry, start: int) -> None:
        """Fill `target` with the entry's bytes from `start` on."""
        left, offset = target.data, entry.offset + start
        fd = self._open(entry.file)
        while left:
            count = os.preadv(fd, [left], offset)
            if count == 0:
                raise CheckpointError(
                    f"{entry.file} ends inside tensor {name}: it changed while it was read",
                    hint=_AGAIN,
                )
            left, offset = left[count:], offset + count

    def read(self, name: str, entry: Entry) -> Tensor:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        if tensor.numel():
            self.read_into(tensor, name, entry)
        return tensor

    def _open(self, file: Path) -> int:
        with self._lock:
            if file not in self._fds:
                try:
                    self._fds[file] = os.open(file, os.O_RDONLY)
                except OSError as error:
                    raise _unreadable(file, error) from None
            return self._fds[file]

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()


@contextmanager
def reader() -> Iterator[Reader]:
    opened = Reader()
    try:
        yield opened
    finally:
        opened.close()
