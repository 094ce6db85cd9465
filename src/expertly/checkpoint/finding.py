"""Which tensors a config asks for, held against those that a folder has: strict both ways."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from expertly.checkpoint.shards import Entry, find, of_type
from expertly.config import ModelConfig
from expertly.errors import CheckpointError
from expertly.families import coded_tensors, stored_tensors
from expertly.families.naming import Part, is_table

_LISTED = 5
_TYPES = {torch.uint8: "U8", torch.int64: "I64"}


def find_all(config: ModelConfig, folder: Path) -> dict[str, Entry]:
    """Where the tensors of `config` lie in the folder's files. Raises CheckpointError unless they
    are all there, of the shapes that `config` asks for, and nothing is left over."""
    entries = find(folder)
    floats = {tensor.name: tensor.shape for tensor in stored_tensors(config)}
    tables = {
        tensor.name
        for tensor in stored_tensors(config)
        if any(is_table(part.parameter) for part in tensor.parts)
    }
    codes: dict[str, tuple[int, ...]] = {}
    for coded in coded_tensors(config):
        codes |= {coded.codes: (*coded.shape, 16), coded.scales: coded.shape}
    _check_names({*floats, *codes}, entries, config, folder)
    for name, shape in (floats | codes).items():
        entry = entries[name]
        if name in codes:
            fits = entry.dtype == torch.uint8
        else:
            fits = entry.dtype == torch.int64 if name in tables else entry.dtype.is_floating_point
        if not fits:
            raise of_type(entry.file, name, _TYPES.get(entry.dtype, str(entry.dtype)))
        if entry.shape != shape:
            raise CheckpointError(
                f"tensor {name} in {entry.file.name} has shape {entry.shape}, "
                f"the config asks for {shape}",
                hint="config.json and weights belong to different models; download both again",
            )
    return entries


def view_of(part: Part, stored: Tensor, like: Tensor) -> Tensor:
    """The view of a stored tensor that has the parameter's shape."""
    view: Callable[[Tensor], Tensor] | None = part.view
    seen = stored.view(like.shape) if view is None else view(stored)
    assert seen.shape == like.shape, f"{part}: {tuple(seen.shape)}, not {tuple(like.shape)}"
    return seen


def _is_harmless(name: str, config: ModelConfig) -> bool:
    """Tensors that say nothing new: computed angles, and the head of a tied model."""
    return name.endswith(".rotary_emb.inv_freq") or (config.is_tied and name == "lm_head.weight")


def _check_names(
    wanted: set[str], entries: dict[str, Entry], config: ModelConfig, folder: Path
) -> None:
    missing = sorted(wanted - entries.keys())
    left = sorted(name for name in entries.keys() - wanted if not _is_harmless(name, config))
    if missing:
        raise CheckpointError(
            f"{folder} lacks {_list(missing)}", hint="the weights are incomplete; get them again"
        )
    if left:
        raise CheckpointError(
            f"{folder} holds {_list(left)} that a {config.family} of this config has no place for",
            hint="check that config.json belongs to these weights",
        )


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    noun = "tensor" if len(names) == 1 else "tensors"
    return f"{len(names)} {noun} ({', '.join(names[:_LISTED])}{more})"
