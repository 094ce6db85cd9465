"""A checkpoint's tensors into a model: each read once, into its place, strict both ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from expertly import _native
from expertly.checkpoint.coded import fill_coded
from expertly.checkpoint.finding import find_all, view_of
from expertly.checkpoint.gguf_loading import load_gguf, open_gguf
from expertly.checkpoint.locating import locate
from expertly.checkpoint.native_loading import load_folder
from expertly.checkpoint.on_device import device_of, put_on_device
from expertly.checkpoint.packed_loading import load_packed
from expertly.checkpoint.shards import Entry, Reader, read_json, reader
from expertly.checkpoint.streamed_loading import load_streamed
from expertly.config import Mixture, ModelConfig
from expertly.errors import CheckpointError, InputError
from expertly.families import coded_tensors, read_config, stored_tensors
from expertly.families.naming import Part, Stored, is_table
from expertly.formats.packed import is_packed
from expertly.machine import thread_count
from expertly.model import Decoder, NativeDecoder
from expertly.model.native_layers import check_native
from expertly.model.weights import NativeWeights
from expertly.planner import parse_bytes
from expertly.text import Tokenizer
from expertly.text.gguf_tokenizer import tokenizer_of

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_NATIVE = ("native", "int8", "int4")

TorchDtype = Literal["float32", "bfloat16"]
NativeDtype = Literal["native", "int8", "int4"]


@overload
def load(
    model: str | Path,
    dtype: TorchDtype,
    *,
    memory: None = None,
    threads: int | None = None,
    kernels: str = "",
) -> Decoder: ...
@overload
def load(
    model: str | Path,
    dtype: NativeDtype,
    *,
    memory: str | int | None = None,
    context: int | None = None,
    read_ahead: bool = True,
    lower: str | Path | None = None,
    device: str | None = None,
    device_memory: str | int | None = None,
    threads: int | None = None,
    kernels: str = "",
) -> NativeDecoder: ...
@overload
def load(
    model: str | Path,
    dtype: str | None = None,
    *,
    memory: str | int | None = None,
    context: int | None = None,
    read_ahead: bool = True,
    lower: str | Path | None = None,
    device: str | None = None,
    device_memory: str | int | None = None,
    threads: int | None = None,
    kernels: str = "",
) -> Decoder | NativeDecoder: ...
def load(
    model: str | Path,
    dtype: str | None = None,
    *,
    memory: str | int | None = None,
    context: int | None = None,
    read_ahead: bool = True,
    lower: str | Path | None = None,
    device: str | None = None,
    device_memory: str | int | None = None,
    threads: int | None = None,
    kernels: str = "",
) -> Decoder | NativeDecoder:
    """The model in a folder (packed or not), in a GGUF file or of a hub id, ready to run; with its
    tokenizer, if it has one.

    float32 and bfloat16 are computed by torch, and can be trained and saved. "native" (weights as
    they are stored), "int8" and "int4" (quantised as they are read) run on our own kernels, with
    `threads` (all usable cores unless given) and the instruction set `kernels` (the best that the
    processor has unless given). A folder is loaded as float32, a GGUF file and a packed folder as
    "native", unless `dtype` says otherwise.

    With `memory` ("8GB", bytes, or "auto": most of what is free) the whole process keeps to it,
    `context` tokens' cache (4,096 unless given) included, and texts keep to these: experts that do
    not fit are read as they are chosen, and with `read_ahead` some before that, in what time the
    disk has. `lower` is the same model at fewer bits, packed or GGUF, whose experts are read where
    `approximate` with lower:F asks for them.

    With `device` ("cuda", "cuda:1") that GPU holds and computes as many experts as
    `device_memory` of it has room for (most of what is free unless given); see docs/ladder.md.

    Peak memory is one copy of the weights plus one tensor. Raises InputError for an unknown
    dtype, ConfigError for a config that is not understood, CheckpointError for its files.
    """
    _check_known(dtype, kernels)
    threads = thread_count(threads)
    if device is None:
        if device_memory is not None:
            raise InputError("memory of a device, but no device", hint="give --device cuda too")
        return _load(model, dtype, memory, context, read_ahead, lower, threads, kernels)
    _check_dtype(model, dtype or "native", _NATIVE)
    if lower is not None:
        raise InputError(
            "a lower copy of experts with a device, which holds full ones alone",
            hint="leave out one of them",
        )
    place = device_of(device)
    decoder = _load(model, dtype or "native", memory, context, read_ahead, None, threads, kernels)
    assert isinstance(decoder, NativeDecoder)
    put_on_device(decoder, place, device_memory, threads)
    return decoder


def _load(
    model: str | Path,
    dtype: str | None,
    memory: str | int | None,
    context: int | None,
    read_ahead: bool,
    lower: str | Path | None,
    threads: int,
    kernels: str,
) -> Decoder | NativeDecoder:
    """On the processor alone."""
    if memory is not None:
        memory = memory if memory == "auto" else parse_bytes(memory)
        _check_kept(model, dtype)
        return load_streamed(
            _apart_path(model),
            memory,
            threads,
            kernels,
            context=context,
            read_ahead=read_ahead,
            lower=None if lower is None else _apart_path(lower),
        )
    if lower is not None:
        raise InputError(
            f"a lower copy of the experts of {_named(model)}, which are all in memory",
            hint="give a memory budget, or leave out the copy",
        )
    return _load_whole(model, dtype, threads, kernels)


def _load_whole(
    model: str | Path, dtype: str | None, threads: int, kernels: str
) -> Decoder | NativeDecoder:
    if str(model).endswith(".gguf"):
        _check_dtype(model, dtype or "native", _NATIVE)
        file, config = open_gguf(Path(model))
        weights = load_gguf(file, config, dtype or "native", threads)
        tokenizer = tokenizer_of(file.metadata)
        return _native_decoder(config, weights, tokenizer, threads, kernels)
    folder = locate(model)
    if is_packed(folder):
        _check_dtype(model, dtype or "native", ("native",))
        return _native_decoder(*load_packed(folder, threads), threads, kernels)
    config = read_config(read_json(folder / "config.json"))
    has_tokenizer = (folder / "tokenizer.json").exists()
    tokenizer = Tokenizer.open(folder) if has_tokenizer else None
    if dtype in _NATIVE:
        check_native(config)
        weights = load_folder(config, folder, dtype, threads)
        return _native_decoder(config, weights, tokenizer, threads, kernels)
    decoder = _torch_decoder(config, folder, _DTYPES[dtype or "float32"])
    decoder.tokenizer = tokenizer
    return decoder


def _check_known(dtype: str | None, kernels: str) -> None:
    if kernels and kernels not in _native.kernel_sets():
        raise InputError(
            f"this processor has no kernels {kernels!r}",
            hint=f"use one of {', '.join(_native.kernel_sets())}",
        )
    if dtype is not None and dtype not in _DTYPES and dtype not in _NATIVE:
        known = ", ".join((*_DTYPES, *_NATIVE))
        raise InputError(f"dtype {dtype!r} is not known", hint=f"use one of {known}")


def _check_kept(model: str | Path, dtype: str | None) -> None:
    if dtype not in (None, "native"):
        raise InputError(
            f"dtype {dtype} with a memory budget for {_named(model)}: experts are read as they are "
            "stored",
            hint="pack it at the width that you want: expertly pack MODEL FOLDER --bits 4",
        )


def _named(model: str | Path) -> str:
    return str(model) or "the bundled model"


def _apart_path(model: str | Path) -> Path:
    """Where experts can be read one by one."""
    path = Path(model) if str(model).endswith(".gguf") else locate(model)
    if not (path.suffix == ".gguf" or is_packed(path)):
        raise InputError(
            f"a memory budget for {_named(model)}, whose experts cannot be read one by one",
            hint="pack it first: expertly pack MODEL FOLDER",
        )
    return path


def _check_dtype(model: str | Path, dtype: str, known: tuple[str, ...]) -> None:
    if dtype not in known:
        raise InputError(
            f"dtype {dtype} for {_named(model)}, whose weights run on the native kernels alone",
            hint=f"use {' or '.join(known)}",
        )


def _native_decoder(
    config: ModelConfig,
    weights: NativeWeights,
    tokenizer: Tokenizer | None,
    threads: int,
    kernels: str,
) -> NativeDecoder:
    decoder = NativeDecoder(config, weights, threads, kernels)
    decoder.tokenizer = tokenizer
    return decoder


def _torch_decoder(config: ModelConfig, folder: Path, dtype: torch.dtype) -> Decoder:
    # before any memory is taken: a config of another model may ask for terabytes
    entries = find_all(config, folder)
    decoder = Decoder(config, dtype=dtype)
    fill(decoder, entries)
    return decoder.eval()


def fill(decoder: Decoder, entries: dict[str, Entry]) -> None:
    """Read every parameter of `decoder` from where `find_all` found it."""
    # what shares its memory: parameters, and buffers that belong to the weights
    parameters = decoder.state_dict()
    with torch.no_grad(), reader() as source:
        for tensor in stored_tensors(decoder.config):
            _fill_one(tensor, entries[tensor.name], parameters, source)
        for coded in coded_tensors(decoder.config):
            fill_coded(coded, parameters, entries, source)
        if decoder.config.is_tied:
            _check_tied(entries, decoder.embed_VD, source)
    for name, tensor in parameters.items():
        if is_table(name):
            _check_table(name, tensor, decoder.config)


def _fill_one(
    stored: Stored, entry: Entry, parameters: Mapping[str, Tensor], source: Reader
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


def target_of(part: Part, parameters: Mapping[str, Tensor]) -> Tensor:
    """The parameter, or the one expert of its stack, that `part` fills."""
    parameter = parameters[part.parameter]
    return parameter.data if part.expert is None else parameter.data[part.expert]


def _check_table(name: str, table_VK: Tensor, config: ModelConfig) -> None:
    mixture = config.layers[int(name.split(".")[1])].feed_forward
    assert isinstance(mixture, Mixture)
    sorted_VK = table_VK.sort(-1).values
    is_in = bool(((table_VK >= 0) & (table_VK < mixture.num_choices)).all())
    if not is_in or bool((sorted_VK[:, 1:] == sorted_VK[:, :-1]).any()):
        raise CheckpointError(
            f"{name} names experts beyond {mixture.num_choices - 1} or one twice for a token",
            hint="the checkpoint is damaged; get it again",
        )


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
