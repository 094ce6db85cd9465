"""Weights as rows of float32, whatever a checkpoint keeps them as: what a quantiser reads from."""

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from expertly.checkpoint.coded import MXFP4, read_blocks
from expertly.checkpoint.finding import find_all, view_of
from expertly.checkpoint.shards import Entry, Reader, reader
from expertly.config import ModelConfig
from expertly.families import coded_tensors, parameters, stored_tensors
from expertly.families.naming import Coded, CodedPart, Part, Stored
from expertly.formats.dequantise import dequantise
from expertly.model.weights import Floats, Place, is_stack

# tensors of a file that are kept whole: both of a layer's stacks where views cut them apart
_KEPT = 2


class FloatRows(Protocol):
    """A model's parameters, read piece by piece."""

    def rows(self, place: Place, first: int, count: int) -> Floats:
        """Rows first .. first + count of a matrix: (count, columns)."""
        ...

    def vector(self, parameter: str) -> Floats:
        """A parameter that is no matrix, in its own shape."""
        ...


class _Folder:
    """Rows of a folder of safetensors, each read as it is asked for."""

    def __init__(self, config: ModelConfig, entries: dict[str, Entry], source: Reader) -> None:
        self._shapes = parameters(config)
        self._entries = entries
        self._source = source
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()
        self._homes: dict[tuple[str, int | None], tuple[Stored, Part]] = {
            (part.parameter, part.expert): (stored, part)
            for stored in stored_tensors(config)
            for part in stored.parts
        }
        self._coded: dict[str, tuple[Coded, CodedPart]] = {
            part.parameter: (coded, part) for coded in coded_tensors(config) for part in coded.parts
        }

    def rows(self, place: Place, first: int, count: int) -> Floats:
        if place.parameter in self._coded:
            coded, coded_part = self._coded[place.parameter]
            assert place.expert is not None
            blocks = read_blocks(
                coded, coded_part, place.expert, (first, count), self._entries, self._source
            )
            return dequantise(MXFP4, blocks.reshape(-1), (count, place.columns))
        stored, part = self._home(place.parameter, place.expert)
        if part.view is None:
            is_whole_stack = place.expert is not None and part.expert is None
            start = first + (place.expert or 0) * place.rows * is_whole_stack
            return self._read(stored.name, start, count, place.columns)
        matrix = self._seen(stored, part, place.expert).reshape(place.rows, place.columns)
        found: Floats = matrix[first : first + count].float().contiguous().numpy()
        return found

    def vector(self, parameter: str) -> Floats:
        shape = self._shapes[parameter]
        if (parameter, 0) in self._homes:
            parts = [self._seen(*self._homes[parameter, e], e) for e in range(shape[0])]
            return torch.stack(parts).float().numpy()
        found: Floats = self._seen(*self._homes[parameter, None], None).float().numpy()
        return np.ascontiguousarray(found)

    def _home(self, parameter: str, expert: int | None) -> tuple[Stored, Part]:
        key = (parameter, expert)
        return self._homes[key if key in self._homes else (parameter, None)]

    def _read(self, name: str, first: int, count: int, columns: int) -> Floats:
        entry = self._entries[name]
        stride = columns * entry.dtype.itemsize
        room = np.empty(count * stride, np.uint8)
        self._source.read_range(room, name, entry, first * stride)
        values = torch.from_numpy(room).view(entry.dtype).view(count, columns)
        found: Floats = values.float().numpy()
        return found

    def _seen(self, stored: Stored, part: Part, expert: int | None) -> Tensor:
        """The part of a tensor that is a parameter, or one expert of its stack."""
        shape = self._shapes[part.parameter]
        like = torch.empty(shape if part.expert is None else shape[1:], device="meta")
        seen = view_of(part, self._tensor(stored.name), like)
        is_cut = expert is not None and part.expert is None and is_stack(part.parameter)
        return seen[expert] if is_cut else seen

    def _tensor(self, name: str) -> Tensor:
        if name not in self._tensors:
            if len(self._tensors) == _KEPT:
                self._tensors.popitem(last=False)
            self._tensors[name] = self._source.read(name, self._entries[name])
        self._tensors.move_to_end(name)
        return self._tensors[name]


@contextmanager
def folder_rows(config: ModelConfig, folder: Path) -> Iterator[FloatRows]:
    """The rows of a folder's safetensors; CheckpointError unless they are what `config` asks for.
    Its files are open until the block ends."""
    entries = find_all(config, folder)
    with reader() as source:
        yield _Folder(config, entries, source)
