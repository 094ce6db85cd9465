"""What `expertly run` says and writes about experts: budget, report, trace."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expertly.cli.output import note
from expertly.config import Mixture
from expertly.errors import CheckpointError, InputError, OutputError
from expertly.model import Model, NativeDecoder
from expertly.model.approximate import Approximation
from expertly.store import Streamed
from expertly.store.probe import DiskProbe
from expertly.store.report import ladder_report, report
from expertly.store.trace import About, TraceWriter


@contextmanager
def reported(model: Model) -> Iterator[None]:
    """Say at the end what was not the model's own, and what store and device did, if any."""
    store = model.store if isinstance(model, NativeDecoder) else None
    begin = time.perf_counter()
    try:
        yield
    finally:
        if isinstance(model, NativeDecoder) and isinstance(model.rechoose, Approximation):
            note(str(model.rechoose))
        if isinstance(model, NativeDecoder) and isinstance(store, Streamed):
            seconds = time.perf_counter() - begin
            rate = _disk_rate(store, model.expert_bytes[0])
            note(str(report(store.tally, store.slots.count, seconds, rate)))
            store.close()
        if isinstance(model, NativeDecoder) and model.tier is not None:
            note(str(ladder_report(model.tier.ladder, model.tier.device.slot_bytes)))
            model.tier.close()


def _disk_rate(store: Streamed, expert_bytes: int) -> float | None:
    """What the disk gives now, if it can be said."""
    with suppress(CheckpointError, OSError):
        return DiskProbe(store.source.disk.sizes, expert_bytes).rate()
    return None


def check_trace(path: Path | None) -> None:
    """Raises OutputError for a file that is there."""
    if path is not None and path.exists():
        raise OutputError(f"{path} exists already", hint="give another name or remove that file")


@contextmanager
def traced(model: Model, path: Path | None) -> Iterator[None]:
    """Write every routing decision to a file, if there is to be one: an error leaves nothing of it,
    and what an interrupt leaves is whole as far as it goes."""
    if path is None:
        yield
        return
    if not isinstance(model, NativeDecoder) or not model.config.mixture_layers:
        raise InputError(
            "only mixtures on the native kernels are traced",
            hint="use --dtype native, or no --trace",
        )
    try:
        with TraceWriter(path, about(model)) as writer:
            model.watch = _Watch(writer)
            yield
    except Exception:
        path.unlink(missing_ok=True)
        raise
    finally:
        model.watch = None


class _Watch:
    def __init__(self, writer: TraceWriter) -> None:
        self._writer = writer
        self._step = -1
        self._layer = -1

    def __call__(
        self,
        layer: int,
        position_T: NDArray[np.integer[Any]],
        ids_TK: NDArray[np.int32],
        weight_TK: NDArray[np.float32],
    ) -> None:
        # a pass goes through the layers in order
        self._step += layer <= self._layer or self._step < 0
        self._layer = layer
        self._writer.add(self._step, layer, position_T, ids_TK, weight_TK)


def about(model: NativeDecoder) -> About:
    rules = [layer.feed_forward for layer in model.config.layers]
    sizes = iter(model.expert_bytes)
    return About(
        num_experts=tuple(r.num_experts if isinstance(r, Mixture) else 0 for r in rules),
        num_chosen=tuple(r.num_chosen if isinstance(r, Mixture) else 0 for r in rules),
        expert_bytes=tuple(next(sizes) if isinstance(r, Mixture) else 0 for r in rules),
        dense_bytes=model.dense_bytes,
    )
