"""A folder of safetensors into a GGUF file, quantised as it is read; written whole or not at all.

Routers, norms and biases are float32; the head of a quantised model is q6_k, as llama.cpp has it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expertly import _native
from expertly.checkpoint.packed_saving import Source, open_folder
from expertly.checkpoint.recipe import BITS, checked_format, fitting
from expertly.errors import CheckpointError, InputError, OutputError
from expertly.families import parameters
from expertly.families.gguf_names import GgufPart, GgufStored
from expertly.families.gguf_saying import Said, say
from expertly.formats.blocks import BLOCKS
from expertly.formats.gguf_values import Value
from expertly.formats.gguf_writer import Chunks, Tensor, Typed, write
from expertly.model.weights import Floats, Place, is_matrix, is_router, is_stack, places
from expertly.text.gguf_vocabulary import Vocabulary, vocabulary_of

Bytes = NDArray[np.uint8]
# bytes done, of all
Progress = Callable[[int, int], None]

# general.file_type, as llama.cpp numbers them
_FILE_TYPES: Mapping[str, int] = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k": 11,
    "q4_k": 14,
    "q5_k": 16,
    "q6_k": 18,
    "iq4_nl": 25,
    "bf16": 32,
    "mxfp4": 38,
}
_QUANTISATION_VERSION = 2
_HEAD = "output.weight"
_CHUNK_WEIGHTS = 2 << 20
_MOST_F16 = 65504.0


@dataclass(frozen=True, kw_only=True)
class GgufReport:
    """`weights`: how many are in each format; `fell_back`: matrices by (format asked for, format
    that their width takes); `differences`: what readers such as llama.cpp will do otherwise."""

    num_bytes: int
    weights: Mapping[str, int]
    fell_back: Mapping[tuple[str, str], int]
    differences: tuple[str, ...]

    @property
    def bits_per_weight(self) -> float:
        num_bytes = sum(
            count * BLOCKS[name].num_bytes / BLOCKS[name].size
            for name, count in self.weights.items()
        )
        return 8 * num_bytes / sum(self.weights.values())


def save_gguf(
    folder: Path,
    out: Path,
    kind: str,
    importance: Mapping[str, Floats] | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> GgufReport:
    """The model and its tokenizer in one file, all matrices but the routers of type `kind`.

    `importance` of a parameter's columns, (columns,) or (experts, columns), steers the rounding.
    Peak memory is a chunk of float32 weights and what the reading holds. Raises InputError for a
    type or a tokenizer that GGUF does not have, ConfigError for a model that it cannot describe,
    CheckpointError for weights that are missing or no numbers, OutputError if `out` exists or
    cannot be written.
    """
    if BLOCKS[checked_format(kind)].ggml_id is None:
        raise InputError(f"GGUF files have no type {kind}", hint="use q4_k, or pack into a folder")
    if out.exists():
        raise OutputError(f"{out} exists already", hint="give another name or remove it first")
    with open_folder(folder) as source:
        said = say(source.config)
        vocabulary = _vocabulary(source)
        formats = _formats(said.tensors, kind)
        quantiser = _Quantiser(source, importance or {}, threads)
        tensors = [quantiser.tensor(stored, formats[stored.name]) for stored in said.tensors]
        write(
            out,
            {**said.metadata, **_typed(vocabulary), **_about(folder, kind)},
            _counted([*tensors, *_rope_tensors(said)], progress),
        )
    return GgufReport(
        num_bytes=out.stat().st_size,
        weights=_weights(said.tensors, formats),
        fell_back=_fell_back(said.tensors, formats, kind),
        differences=(*said.differences, *vocabulary.differences),
    )


def _counted(tensors: Sequence[Tensor], progress: Progress | None) -> list[Tensor]:
    """Tensors that say how far the work is after each of their chunks."""
    if progress is None:
        return list(tensors)
    sizes = [block.num_bytes_of(shape) for _, block, shape, _ in tensors]
    total, befores = sum(sizes), accumulate(sizes[:-1], initial=0)

    def chunks_of(before: int, chunks: Chunks) -> Iterator[Bytes]:
        for chunk in chunks():
            yield chunk
            before += len(chunk)
            progress(before, total)

    return [
        (name, block, shape, partial(chunks_of, before, chunks))
        for (name, block, shape, chunks), before in zip(tensors, befores, strict=True)
    ]


def _about(folder: Path, kind: str) -> dict[str, Value]:
    return {
        "general.name": folder.resolve().name,
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": _QUANTISATION_VERSION,
    }


def _vocabulary(source: Source) -> Vocabulary:
    if source.tokenizer is None:
        return Vocabulary(metadata={"tokenizer.ggml.model": "no_vocab"})
    return vocabulary_of(source.tokenizer, source.config.vocab_size)


def _typed(vocabulary: Vocabulary) -> dict[str, Value | Typed]:
    """An empty list, of merges, does not show that it is one of strings."""
    return {
        key: Typed("str", value) if value == [] else value
        for key, value in vocabulary.metadata.items()
    }


def _rope_tensors(said: Said) -> Iterator[Tensor]:
    for name, factors in said.rope_tensors.items():
        values = np.array(factors, np.float32)
        yield name, BLOCKS["f32"], values.shape, partial(_whole, values)


def _whole(values: Floats) -> list[Bytes]:
    return [values.view(np.uint8)]


def _formats(tensors: tuple[GgufStored, ...], kind: str) -> dict[str, str]:
    """The format of each tensor by its name; those whose rows are no whole blocks of any are f16,
    as llama.cpp has it."""
    found = {}
    for stored in tensors:
        name = fitting(_wanted(stored, tensors, kind), stored.shape[-1])
        found[stored.name] = "f16" if stored.shape[-1] % BLOCKS[name].size else name
    return found


def _wanted(stored: GgufStored, tensors: tuple[GgufStored, ...], kind: str) -> str:
    """The format that a tensor has if its rows are wide enough."""
    parameter = stored.parts[0].parameter
    if not is_matrix(parameter) or is_router(parameter):
        return "f32"
    if BITS[kind] >= 8:
        return kind
    if kind == "mxfp4":
        return kind if is_stack(parameter) else "q8_0"
    # the embedding is the head where there is no other
    has_head = any(other.name == _HEAD for other in tensors)
    return "q6_k" if stored.name == (_HEAD if has_head else "token_embd.weight") else kind


class _Quantiser:
    """Makes the bytes of tensors, a chunk of rows at a time."""

    def __init__(self, source: Source, importance: Mapping[str, Floats], threads: int) -> None:
        self._source = source
        self._shapes = parameters(source.config)
        self._importance = importance
        self._threads = threads

    def tensor(self, stored: GgufStored, format_name: str) -> Tensor:
        chunks: Chunks = partial(self._chunks, stored, format_name)
        return stored.name, BLOCKS[format_name], stored.shape, chunks

    def _chunks(self, stored: GgufStored, format_name: str) -> Iterator[Bytes]:
        for part in stored.parts:
            if not is_matrix(part.parameter):
                yield self._vector(part).view(np.uint8)
                continue
            for place in places(part.parameter, self._shapes[part.parameter]):
                for rows in self._rows(place, part):
                    _check_numbers(rows, stored.name, format_name)
                    importance = self._columns(place)
                    blocks = _native.quantise(format_name, rows, importance, self._threads)
                    yield blocks.reshape(-1)

    def _rows(self, place: Place, part: GgufPart) -> Iterator[Floats]:
        """Whole heads at a time where their rows are stored in pairs."""
        unit = 1 if part.paired_heads is None else place.rows // part.paired_heads
        step = max(1, _CHUNK_WEIGHTS // (place.columns * unit)) * unit
        for first in range(0, place.rows, step):
            rows = self._source.rows.rows(place, first, min(step, place.rows - first))
            yield rows if part.paired_heads is None else _paired(rows, unit)

    def _vector(self, part: GgufPart) -> Floats:
        values = self._source.rows.vector(part.parameter).reshape(-1)
        if part.paired_heads is None:
            return np.ascontiguousarray(values)
        return _paired(values[:, None], values.size // part.paired_heads).reshape(-1)

    def _columns(self, place: Place) -> Floats | None:
        found = self._importance.get(place.parameter)
        if found is None or place.expert is None:
            return found
        return np.ascontiguousarray(found[place.expert])


def _paired(rows_RX: Floats, head_size: int) -> Floats:
    """Rows of whole heads, their halves side by side: 0, size / 2, 1, size / 2 + 1, ..."""
    halves = rows_RX.reshape(-1, 2, head_size // 2, rows_RX.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows_RX.shape)


def _check_numbers(rows: Floats, name: str, format_name: str) -> None:
    if not np.isfinite(rows).all():
        raise CheckpointError(
            f"{name} would hold weights that are not finite numbers",
            hint="the checkpoint is damaged; get it again",
        )
    if format_name == "f16" and np.abs(rows).max(initial=0.0) > _MOST_F16:
        raise InputError(f"{name} would hold weights beyond f16's {_MOST_F16:.0f}", hint="use bf16")


def _weights(tensors: tuple[GgufStored, ...], formats: Mapping[str, str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for stored in tensors:
        counts[formats[stored.name]] += prod(stored.shape)
    return dict(counts)


def _fell_back(
    tensors: tuple[GgufStored, ...], formats: Mapping[str, str], kind: str
) -> dict[tuple[str, str], int]:
    pairs = [(_wanted(stored, tensors, kind), formats[stored.name]) for stored in tensors]
    return dict(Counter(pair for pair in pairs if pair[0] != pair[1]))
