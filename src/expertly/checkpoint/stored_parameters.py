"""A folder's parameters one at a time, of the type that they are stored in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from expertly.checkpoint.finding import find_all, view_of
from expertly.checkpoint.shards import Entry, Reader, reader
from expertly.config import ModelConfig
from expertly.errors import CheckpointError
from expertly.families import coded_tensors, parameters, stored_tensors
from expertly.families.naming import Part, Stored


class StoredParameters:
    """Reads a parameter, or one expert of a stack, by our name of it."""

    def __init__(self, config: ModelConfig, entries: dict[str, Entry], source: Reader) -> None:
        self.config = config
        self.shapes = parameters(config)
        self._entries = entries
        self._source = source
        self._homes: dict[tuple[str, int | None], tuple[Stored, Part]] = {
            (part.parameter, part.expert): (stored, part)
            for stored in stored_tensors(config)
            for part in stored.parts
        }

    def __contains__(self, parameter: str) -> bool:
        return parameter in self.shapes

    def dtype(self, parameter: str) -> torch.dtype:
        """The type that a parameter (or the first expert of a stack) is stored in."""
        key = (parameter, None) if (parameter, None) in self._homes else (parameter, 0)
        return self._entries[self._homes[key][0].name].dtype

    def read(self, parameter: str, expert: int | None = None) -> Tensor:
        """A tensor of its own, in the parameter's shape; `expert` picks one of a stack."""
        if (parameter, expert) in self._homes:
            shape = self.shapes[parameter] if expert is None else self.shapes[parameter][1:]
            return self._seen(parameter, expert, shape)
        if expert is None:
            num_experts = self.shapes[parameter][0]
            return torch.stack([self.read(parameter, e) for e in range(num_experts)])
        return self._seen(parameter, None, self.shapes[parameter])[expert].clone()

    def _seen(self, parameter: str, expert: int | None, shape: tuple[int, ...]) -> Tensor:
        stored, part = self._homes[parameter, expert]
        tensor = self._source.read(stored.name, self._entries[stored.name])
        return view_of(part, tensor, torch.empty(shape, device="meta"))


@contextmanager
def stored_parameters(config: ModelConfig, folder: Path) -> Iterator[StoredParameters]:
    """The parameters of the folder that `config` was read from. Raises CheckpointError unless
    its tensors are those of `config`, and for experts that are kept as codes."""
    if any(True for _ in coded_tensors(config)):
        raise CheckpointError(
            f"{folder} keeps its experts as MXFP4 codes",
            hint="give the model with its weights as bfloat16",
        )
    entries = find_all(config, folder)
    with reader() as source:
        yield StoredParameters(config, entries, source)
