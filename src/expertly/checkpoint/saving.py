"""A model into a folder that transformers and `load` read: written whole or not at all."""

import errno
import functools
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor

from expertly.checkpoint.finding import view_of
from expertly.checkpoint.loading import target_of
from expertly.checkpoint.streaming import Planned, write_shards
from expertly.errors import InputError, OutputError
from expertly.families import stored_tensors
from expertly.families.naming import Stored
from expertly.model import Decoder

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def save(
    model: Decoder,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 2_000_000_000,
) -> None:
    """config.json as it was read, the weights as safetensors (in `dtype`, else the model's), and
    the tokenizer's files. The folder appears when all of it is on disk.

    Raises InputError for a dtype that is not one of floats up to 32 bits, OutputError if the
    folder exists and is not empty, or cannot be written.
    """
    saved_dtype = dtype or model.embed_VD.dtype
    if saved_dtype not in _NAMES:
        names = ", ".join(_NAMES.values())
        raise InputError(f"weights cannot be saved as {saved_dtype}", hint=f"use one of {names}")
    with whole_folder(Path(folder)) as partial:
        config = {**model.config.source, "dtype": _NAMES[saved_dtype]}
        config.pop("torch_dtype", None)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _write_weights(model, partial, saved_dtype, max_shard_bytes)
        if model.tokenizer is not None:
            model.tokenizer.save(partial)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that becomes it when the block ends well: files on disk
    first, then one rename. Nothing is left of it otherwise."""
    _check_free(folder)
    # named before it is made, so that an interrupt at any moment leaves nothing behind
    partial = folder.parent / f".{folder.name}.{secrets.token_hex(6)}"
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in [*partial.rglob("*"), partial]:
            _sync(path)
        partial.rename(folder)
        _sync(folder.parent)
    # safetensors wraps what the system says, a full disk too, in an error of its own
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST):
            # somebody else's, in the meantime
            _check_free(folder)
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{folder} cannot be written: {reason}", hint="free some space or choose another place"
        ) from None
    finally:
        if partial.exists():
            shutil.rmtree(partial, ignore_errors=True)


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} exists already", hint="give a new folder or remove that one")


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_weights(model: Decoder, folder: Path, dtype: torch.dtype, max_bytes: int) -> None:
    # buffers that belong to the weights keep their type: steering biases, tables of token ids
    own_types = {name: buffer.dtype for name, buffer in model.named_buffers()}
    gather = functools.partial(_gather, parameters=model.state_dict())
    planned = []
    for stored in stored_tensors(model.config):
        its_type = own_types.get(stored.parts[0].parameter, dtype)
        read = functools.partial(gather, stored, its_type)
        planned.append(Planned(stored.name, stored.shape, its_type, read))
    write_shards(folder, planned, max_shard_bytes=max_bytes)


def _gather(stored: Stored, dtype: torch.dtype, parameters: dict[str, Tensor]) -> Tensor:
    """The tensor as a checkpoint keeps it: written through the views that reading reads from."""
    tensor = torch.empty(stored.shape, dtype=dtype)
    for part in stored.parts:
        source = target_of(part, parameters)
        view_of(part, tensor, source).copy_(source)
    return tensor
