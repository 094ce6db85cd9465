"""Routing decisions as a Parquet file, a row for each token, layer and slot; and back as turns."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from expertly.errors import InputError
from expertly.store.replay import Visit

_COLUMNS = {
    "step": "int32",  # the forward pass
    "position": "int32",
    "layer": "int16",
    "slot": "int16",
    "expert": "int32",
    "weight": "float32",
}
_ABOUT = b"expertly.trace"
_ROWS_A_GROUP = 1 << 17
_OTHER = "give a file that `expertly run --trace FILE` wrote"


@dataclass(frozen=True, kw_only=True)
class About:
    """What the model of a trace is, layer by layer; a layer without a mixture has 0 of all."""

    num_experts: tuple[int, ...]
    num_chosen: tuple[int, ...]
    expert_bytes: tuple[int, ...]
    dense_bytes: int  # that every token reads

    def __post_init__(self) -> None:
        sizes = {len(self.num_experts), len(self.num_chosen), len(self.expert_bytes)}
        values = (*self.num_experts, *self.num_chosen, *self.expert_bytes, self.dense_bytes)
        if len(sizes) != 1 or not all(type(v) is int and 0 <= v < 1 << 48 for v in values):
            raise InputError("the trace does not say what its model is", hint=_OTHER)
        if not any(self.num_experts):
            raise InputError("the trace is of a model without experts", hint=_OTHER)

    @property
    def all_expert_bytes(self) -> int:
        return sum(n * size for n, size in zip(self.num_experts, self.expert_bytes, strict=True))

    @property
    def working_set_bytes(self) -> int:
        """The experts of one token."""
        return sum(n * size for n, size in zip(self.num_chosen, self.expert_bytes, strict=True))


@dataclass(frozen=True)
class Trace:
    """`visits`: each pass, layer by layer, the experts that any of its tokens chose."""

    about: About
    visits: tuple[Visit, ...]
    num_tokens: int


@dataclass(frozen=True)
class Choices:
    """Of each mixture layer the ids (N, K) and weights (N, K) of a trace's tokens, in order."""

    about: About
    ids: Mapping[int, NDArray[np.int32]]
    weights: Mapping[int, NDArray[np.float32]]


class TraceWriter:
    """Rows are kept until there are enough for a group. Raises InputError without pyarrow, OSError
    for a file that cannot be written."""

    def __init__(self, path: Path, about: About) -> None:
        self._arrow = _arrow()
        meta = {_ABOUT: json.dumps(asdict(about)).encode()}
        fields = [(name, getattr(self._arrow, kind)()) for name, kind in _COLUMNS.items()]
        self._schema = self._arrow.schema(fields, metadata=meta)
        self._file = self._arrow.parquet.ParquetWriter(path, self._schema)
        self._parts: list[tuple[NDArray[Any], ...]] = []
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(
        self,
        step: int,
        layer: int,
        position_T: NDArray[np.integer[Any]],
        ids_TK: NDArray[np.integer[Any]],
        weight_TK: NDArray[np.float32],
    ) -> None:
        """What one layer chose for the tokens of a pass, slots of id -1 left out; the arrays may
        change afterwards."""
        token_R, slot_R = np.nonzero(ids_TK >= 0)
        own = (
            np.full(len(token_R), step),
            position_T[token_R],
            np.full(len(token_R), layer),
            slot_R,
            ids_TK[token_R, slot_R],
            weight_TK[token_R, slot_R],
        )
        self._parts.append(own)
        self._count += len(token_R)
        if self._count >= _ROWS_A_GROUP:
            self._write()

    def close(self) -> None:
        """Write what is left; the file is whole only then."""
        self._write()
        self._file.close()

    def _write(self) -> None:
        if not self._parts:
            return
        columns = [np.concatenate(parts) for parts in zip(*self._parts, strict=True)]
        arrays = [
            self._arrow.array(column.astype(kind))
            for column, kind in zip(columns, _COLUMNS.values(), strict=True)
        ]
        self._file.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))
        self._parts, self._count = [], 0


def read_trace(path: Path) -> Trace:
    """Raises InputError for a file that is no trace, or names experts that its model lacks."""
    about, (step, position, layer, expert) = _read(path, ("step", "position", "layer", "expert"))
    num_tokens = len(np.unique(np.stack([step, position]), axis=1).T)
    return Trace(about, tuple(_visits(step, layer, expert)), num_tokens)


def read_choices(path: Path) -> Choices:
    """Every token's choice by itself. Raises InputError as `read_trace`, and for a trace with
    slots that were left out, which is no router's own."""
    about, (layer, slot, expert, weight) = _read(path, ("layer", "slot", "expert", "weight"))
    ids, weights = {}, {}
    for index, K in enumerate(about.num_chosen):
        if not K:
            continue
        is_here = layer == index
        own, count = expert[is_here], int(is_here.sum())
        is_whole = count > 0 and np.array_equal(slot[is_here], np.arange(count) % K)
        if not is_whole or (np.diff(np.sort(own.reshape(-1, K))) == 0).any():
            raise InputError(
                f"{path} has no {K} experts for each token in layer {index}", hint=_OTHER
            )
        ids[index] = own.astype(np.int32).reshape(-1, K)
        weights[index] = weight[is_here].astype(np.float32).reshape(-1, K)
    return Choices(about, ids, weights)


def _read(path: Path, names: tuple[str, ...]) -> tuple[About, list[NDArray[Any]]]:
    """Columns of a trace whose experts are all its model's; `layer` and `expert` are among them."""
    arrow = _arrow()
    try:
        table = arrow.parquet.read_table(path, columns=[*names])
    except FileNotFoundError:
        raise InputError(f"{path} is not there", hint=_OTHER) from None
    except (arrow.ArrowException, OSError) as problem:
        raise InputError(f"{path} is no trace: {str(problem)[:200]}", hint=_OTHER) from None
    about = _about(path, table.schema.metadata or {})
    columns = {name: table.column(name).to_numpy() for name in names}
    columns = {
        name: column if column.dtype.kind == "f" else column.astype(np.int64)
        for name, column in columns.items()
    }
    layer, expert = columns["layer"], columns["expert"]
    counts = np.array(about.num_experts)
    is_known = (layer >= 0) & (layer < len(counts)) & (expert >= 0)
    if not (is_known.all() and (expert < counts[layer]).all()):
        raise InputError(f"{path} names experts that its model lacks", hint=_OTHER)
    return about, [*columns.values()]


def _visits(
    step: NDArray[np.int64], layer: NDArray[np.int64], expert: NDArray[np.int64]
) -> Iterator[Visit]:
    """A turn ends where the pass or the layer changes."""
    if not len(step):
        return
    ends = np.flatnonzero((np.diff(step) != 0) | (np.diff(layer) != 0)) + 1
    for own_layer, own in zip(layer[[0, *ends]].tolist(), np.split(expert, ends), strict=True):
        yield own_layer, tuple(np.unique(own).tolist())


def _about(path: Path, metadata: Mapping[bytes, bytes]) -> About:
    try:
        values = json.loads(metadata.get(_ABOUT, b""))
        lists = {
            name: tuple(values[name]) for name in ("num_experts", "num_chosen", "expert_bytes")
        }
        return About(**lists, dense_bytes=values["dense_bytes"])
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{path} is no trace of a model", hint=_OTHER) from None


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            "traces are Parquet files, which need pyarrow", hint="pip install 'expertly[trace]'"
        ) from None
    return pyarrow
