"""A checkpoint's tensors into a model: each read once, into its place, strict both ways."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from expertly.checkpoint.locating import locate
from expertly.checkpoint.shards import Entry, Reader, find, read_json, reader
from expertly.config import ModelConfig
from expertly.errors import CheckpointError, InputError
from expertly.families import read_config, stored_tensors
from expertly.families.naming import Part, Stored
from expertly.model import Decoder
from expertly.text import Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_LISTED = 5


def load(model: str | Path, dtype: str = "float32") -> Decoder:
    """The model in a folder or of a hub id, ready to run; its tokenizer too, if it has one.

    Peak memory is one copy of the weights plus one tensor. Raises InputError for an unknown
    dtype, ConfigError for a config that is not understood, CheckpointError for its files.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype {dtype!r} is not known", hint=f"use one of {', '.join(_DTYPES)}")
    folder = locate(model)
    config = read_config(read_json(folder / "config.json"))
    # before any memory is taken: a config of another model may ask for terabytes
    entries = find_all(config, folder)
    decoder = Decoder(config, dtype=_DTYPES[dtype])
    fill(decoder, entries)
    if (folder / "tokenizer.json").exists():
        decoder.tokenizer = Tokenizer.open(folder)
    return decoder.eval()


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


def fill(decoder: Decoder, entries: dict[str, Entry]) -> None:
    """Read every parameter of `decoder` from where `find_all` found it."""
    parameters = dict(decoder.named_parameters())
    with torch.no_grad(), reader() as source:
        for tensor in stored_tensors(decoder.config):
            _fill_one(tensor, entries[tensor.name], parameters, source)
        if decoder.config.is_tied:
            _check_tied(entries, decoder.embed_VD, source)


def _fill_one(
    stored: Stored, entry: Entry, parameters: dict[str, torch.nn.Parameter], source: Reader
) -> None:
    whole = stored.parts[0]
    target = target_of(whole, parameters)
    if len(stored.parts) == 1 and whole.view is None and target.dtype == entry.dtype:
        source.read_into(target, stored.name, entry)
        return
    tensor = source.read(stored.name, entry)
    for part in stored.parts:
        target = target_of(part, parameters)
        target.copy_(view_of(part, tensor, target))


def target_of(part: Part, parameters: dict[str, torch.nn.Parameter]) -> Tensor:
    """The parameter, or the one expert of its stack, that `part` fills."""
    parameter = parameters[part.parameter]
    return parameter.data if part.expert is None else parameter.data[part.expert]


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


def _check_tied(entries: dict[str, Entry], embed_VD: Tensor, source: Reader) -> None:
    entry = entries.get("lm_head.weight")
    if entry is None:
        return
    head_VD = source.read("lm_head.weight", entry).to(embed_VD.dtype)
    if head_VD.shape != embed_VD.shape or not torch.equal(head_VD, embed_VD):
        raise CheckpointError(
            f"lm_head.weight in {entry.file.name} differs from the embedding it is tied to",
            hint='set "tie_word_embeddings": false in config.json if the head is its own',
        )
