"""A checkpoint's tensors into a model: each read once, into its place, strict both ways."""

from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from expertly.checkpoint.coded import fill_coded
from expertly.checkpoint.finding import find_all, view_of
from expertly.checkpoint.gguf_loading import load_gguf, open_gguf
from expertly.checkpoint.locating import locate
from expertly.checkpoint.native_loading import load_folder
from expertly.checkpoint.shards import Entry, Reader, read_json, reader
from expertly.config import ModelConfig
from expertly.errors import CheckpointError, InputError
from expertly.families import coded_tensors, read_config, stored_tensors
from expertly.families.naming import Part, Stored
from expertly.machine import usable_cores
from expertly.model import Decoder, NativeDecoder
from expertly.text import Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NATIVE = ("native", "int8", "int4")

TorchDtype = Literal["float32", "bfloat16"]
NativeDtype = Literal["native", "int8", "int4"]


@overload
def load(
    model: str | Path, dtype: TorchDtype, *, threads: int | None = None, kernels: str = ""
) -> Decoder: ...
@overload
def load(
    model: str | Path, dtype: NativeDtype, *, threads: int | None = None, kernels: str = ""
) -> NativeDecoder: ...
@overload
def load(
    model: str | Path, dtype: None = None, *, threads: int | None = None, kernels: str = ""
) -> Decoder | NativeDecoder: ...
def load(
    model: str | Path, dtype: str | None = None, *, threads: int | None = None, kernels: str = ""
) -> Decoder | NativeDecoder:
    """The model in a folder, a GGUF file or of a hub id, ready to run; its tokenizer too, if it
    has one.

    float32 and bfloat16 are computed by torch, and can be trained and saved. "native" (weights as
    they are stored), "int8" and "int4" (quantised as they are read) run on our own kernels, with
    `threads` (all usable cores unless given) and the instruction set `kernels` (the best that the
    processor has unless given). A folder is loaded as float32 and a GGUF file as "native", unless
    `dtype` says otherwise.

    Peak memory is one copy of the weights plus one tensor. Raises InputError for an unknown
    dtype, ConfigError for a config that is not understood, CheckpointError for its files.
    """
    is_gguf = str(model).endswith(".gguf")
    dtype = dtype or ("native" if is_gguf else "float32")
    if dtype not in _DTYPES and dtype not in _NATIVE:
        known = ", ".join((*_DTYPES, *_NATIVE))
        raise InputError(f"dtype {dtype!r} is not known", hint=f"use one of {known}")
    threads = threads or usable_cores()
    if is_gguf:
        return _from_gguf(Path(model), dtype, threads, kernels)
    folder = locate(model)
    config = read_config(read_json(folder / "config.json"))
    decoder: Decoder | NativeDecoder
    if dtype in _DTYPES:
        decoder = _torch_decoder(config, folder, _DTYPES[dtype])
    else:
        weights = load_folder(config, folder, dtype, threads)
        decoder = NativeDecoder(config, weights, threads, kernels)
    if (folder / "tokenizer.json").exists():
        decoder.tokenizer = Tokenizer.open(folder)
    return decoder


def _from_gguf(path: Path, dtype: str, threads: int, kernels: str) -> NativeDecoder:
    if dtype not in _NATIVE:
        raise InputError(
            f"dtype {dtype} for {path.name}: a GGUF file runs on the native kernels alone",
            hint=f"use one of {', '.join(_NATIVE)}",
        )
    file, config = open_gguf(path)
    weights = load_gguf(file, config, dtype, threads)
    return NativeDecoder(config, weights, threads, kernels)


def _torch_decoder(config: ModelConfig, folder: Path, dtype: torch.dtype) -> Decoder:
    # before any memory is taken: a config of another model may ask for terabytes
    entries = find_all(config, folder)
    decoder = Decoder(config, dtype=dtype)
    fill(decoder, entries)
    return decoder.eval()


def fill(decoder: Decoder, entries: dict[str, Entry]) -> None:
    """Read every parameter of `decoder` from where `find_all` found it."""
    parameters = dict(decoder.named_parameters())
    with torch.no_grad(), reader() as source:
        for tensor in stored_tensors(decoder.config):
            _fill_one(tensor, entries[tensor.name], parameters, source)
        for coded in coded_tensors(decoder.config):
            fill_coded(coded, parameters, entries, source)
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
