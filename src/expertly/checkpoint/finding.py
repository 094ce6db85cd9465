"""Which tensors a config asks for, held against those that a folder has: strict both ways."""

from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from expertly.checkpoint.shards import Entry, find
from expertly.config import ModelConfig
from expertly.errors import CheckpointError
from expertly.families import stored_tensors
from expertly.families.naming import Part, Stored

_LISTED = 5


def find_all(config: ModelConfig, folder: Path) -> dict[str, Entry]:
    """Where the tensors of `config` lie in the folder's files. Raises CheckpointError unless they
    are all there, of the shapes that `config` asks for, and nothing is left over."""
    entries = find(folder)
    stored = list(stored_tensors(config))
    _check_names(stored, entries, config, folder)
    for tensor in stored:
        entry = entries[tensor.name]
        if entry.shape != tensor.shape:
            raise CheckpointError(
                f"tensor {tensor.name} in {entry.file.name} has shape {entry.shape}, "
                f"the config asks for {tensor.shape}",
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
    stored: Iterable[Stored], entries: dict[str, Entry], config: ModelConfig, folder: Path
) -> None:
    wanted = {tensor.name for tensor in stored}
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
