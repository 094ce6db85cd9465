"""A rewritten model into a folder: config, tokenizer and weights, whole or not at all."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import disk_usage

import torch
from torch import Tensor

from expertly.checkpoint import locate, whole_folder
from expertly.checkpoint.finding import view_of
from expertly.checkpoint.shards import read_json
from expertly.checkpoint.streaming import Planned, Progress, write_shards
from expertly.config import Mixture, ModelConfig
from expertly.errors import InputError, OutputError
from expertly.families import read_config, stored_tensors
from expertly.families.naming import Stored
from expertly.formats.packed import is_packed
from expertly.planner import active_params, total_params
from expertly.text import Tokenizer

# a parameter by our name, and the expert of a stack if it is kept apart
Value = Callable[[str, int | None], Tensor]
Dtype = Callable[[str], torch.dtype]

# header, index, config and tokenizer beside the weights: generously
_BESIDE_BYTES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """What was written: where, what it is, its size, and whether it computes what its source
    does."""

    folder: Path
    config: ModelConfig
    num_bytes: int
    is_exact: bool

    @property
    def mixture(self) -> Mixture:
        mixture = self.config.layers[self.config.mixture_layers[0]].feed_forward
        assert isinstance(mixture, Mixture)
        return mixture

    def to_dict(self) -> dict[str, object]:
        return {
            "out": str(self.folder),
            "family": self.config.family,
            "mixture_layers": len(self.config.mixture_layers),
            "num_experts": self.mixture.num_experts,
            "num_chosen": self.mixture.num_chosen,
            "expert_size": self.mixture.expert_size,
            "shared_size": self.mixture.shared_size,
            "total_params": total_params(self.config),
            "active_params": active_params(self.config),
            "bytes": self.num_bytes,
            "is_exact": self.is_exact,
        }


def open_source(model: str | Path) -> tuple[Path, ModelConfig]:
    """The folder of a model whose weights are safetensors of floats, and its config."""
    if str(model).endswith(".gguf"):
        raise InputError(
            f"{model} is a GGUF file", hint="give the folder of safetensors that it was made from"
        )
    folder = locate(model)
    if is_packed(folder):
        raise InputError(
            f"{model} is packed", hint="give the folder of safetensors that it was made from"
        )
    return folder, read_config(read_json(folder / "config.json"))


def check_new(out: Path) -> None:
    """Raises OutputError for a folder that is there: before long work, not after it."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists already", hint="give a new folder or remove that one")


def write_folder(
    out: Path,
    config: ModelConfig,
    source: Path,
    *,
    value: Value,
    dtype: Dtype,
    max_shard_bytes: int,
    progress: Progress | None,
) -> int:
    """Writes the model whose parameters `value` gives, with the tokenizer of `source`; the bytes.

    Raises OutputError if the folder exists, does not fit on its disk (checked before the first
    byte) or cannot be written.
    """
    planned = [_planned(stored, config, value, dtype) for stored in stored_tensors(config)]
    with whole_folder(out) as partial_folder:
        _check_fit(out, partial_folder, planned)
        hf = json.dumps(dict(config.source), indent=2) + "\n"
        (partial_folder / "config.json").write_text(hf, encoding="utf-8")
        write_shards(partial_folder, planned, max_shard_bytes=max_shard_bytes, progress=progress)
        if (source / "tokenizer.json").exists():
            Tokenizer.open(source).save(partial_folder)
        return sum(path.stat().st_size for path in partial_folder.iterdir())


def _planned(stored: Stored, config: ModelConfig, value: Value, dtype: Dtype) -> Planned:
    kind = dtype(stored.parts[0].parameter)
    return Planned(stored.name, stored.shape, kind, partial(_make, stored, value, kind))


def _make(stored: Stored, value: Value, dtype: torch.dtype) -> Tensor:
    whole = stored.parts[0]
    if len(stored.parts) == 1 and whole.view is None:
        return value(whole.parameter, whole.expert).to(dtype).reshape(stored.shape)
    tensor = torch.empty(stored.shape, dtype=dtype)
    for part in stored.parts:
        found = value(part.parameter, part.expert)
        view_of(part, tensor, found).copy_(found)
    return tensor


def _check_fit(out: Path, partial_folder: Path, planned: Sequence[Planned]) -> None:
    needed = sum(tensor.num_bytes for tensor in planned) + _BESIDE_BYTES
    free = disk_usage(partial_folder).free
    if needed > free:
        raise OutputError(
            f"{out} needs {needed:,} bytes, and its disk has {free:,} free",
            hint="free some space, choose another disk or fewer experts",
        )
