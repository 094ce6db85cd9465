"""A device of torch: an arena in its memory, copies from pinned buffers on a stream of their own.

Experts lie there as float matrices, whatever they are in RAM: they are unpacked on the processor on
their way. Its logic is tested on `torch.device("cpu")`, where nothing is asynchronous; on a GPU it
has not been run yet.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from expertly import _native
from expertly.config import Glu
from expertly.device.protocol import Answer, Copy, Floats, HostExpert
from expertly.kernels import reference

# one is filled while the other is copied
_NUM_BUFFERS = 2
_BUFFER_NUMBERS = 1 << 22
# unpacked at once by a thread
_PART_NUMBERS = 1 << 18


def slot_numbers(hidden_size: int, expert_size: int) -> int:
    """Numbers that an expert takes: three matrices and two biases."""
    return (3 * hidden_size + 2) * expert_size


class TorchDevice:
    """`num_slots` experts of at most `numbers` numbers each, computed in `dtype`."""

    def __init__(
        self,
        device: torch.device,
        num_slots: int,
        numbers: int,
        dtype: torch.dtype = torch.bfloat16,
        threads: int = 1,
    ) -> None:
        self._device = device
        self._is_cuda = device.type == "cuda"
        self.slot_bytes = numbers * dtype.itemsize
        self._arena = torch.empty(num_slots, numbers, dtype=dtype, device=device)
        size = min(numbers, _BUFFER_NUMBERS)
        self._buffers = [_Buffer(size, dtype, self._is_cuda) for _ in range(_NUM_BUFFERS)]
        self._held: dict[int, _Held] = {}
        # of each slot: its copy, and the last answer that needs it
        self._copied: dict[int, torch.cuda.Event | None] = {}
        self._used: dict[int, torch.cuda.Event | None] = {}
        self._link, self._work = _Queue(device), _Queue(device)
        self._pool = ThreadPoolExecutor(threads)
        if self._is_cuda:
            torch.cuda.synchronize(device)

    @torch.inference_mode()
    def copy(self, slot: int, expert: HostExpert) -> Copy:
        parts = _parts(expert)
        self._link.after(self._used.get(slot))
        spans = [self._send(slot, group) for group in _grouped(parts, self._buffers[0].size)]
        self._held[slot] = _views(self._arena[slot], expert)
        self._copied[slot] = spans[-1].end
        return _Copied(spans)

    @torch.inference_mode()
    def compute(self, slots: Sequence[int], counts: Sequence[int], x_RD: Floats) -> Answer:
        x = torch.from_numpy(x_RD)
        with self._work.inside():
            for slot in slots:
                self._work.after(self._copied[slot])
            begin = self._work.mark()
            rows = (x.pin_memory() if self._is_cuda else x).to(self._device, non_blocking=True)
            parts = torch.split(rows.to(self._arena.dtype), list(counts))
            found = torch.cat([self._held[s](part) for s, part in zip(slots, parts, strict=True)])
            y_RD = torch.empty(found.shape, pin_memory=self._is_cuda)
            y_RD.copy_(found, non_blocking=True)
            span = _Span(begin, self._work.mark())
        self._used.update(dict.fromkeys(slots, span.end))
        return _Answered(y_RD, span)

    def close(self) -> None:
        self._pool.shutdown()

    def _send(self, slot: int, parts: Sequence["_Part"]) -> "_Span":
        """Neighbouring parts of an expert, by way of the buffer that was sent the longest ago."""
        buffer = self._buffers.pop(0)
        self._buffers.append(buffer)
        numbers = buffer.numbers()
        first, last = parts[0].begin, parts[-1].begin + parts[-1].size

        def fill(part: _Part) -> None:
            part.fill(numbers[part.begin - first : part.begin - first + part.size])

        list(self._pool.map(fill, parts))
        with self._link.inside():
            begin = self._link.mark()
            self._arena[slot, first:last].copy_(numbers[: last - first], non_blocking=True)
            buffer.sent = self._link.mark()
        return _Span(begin, buffer.sent)


class _Buffer:
    """Memory that a GPU reads by itself."""

    def __init__(self, size: int, dtype: torch.dtype, is_pinned: bool) -> None:
        self.size = size
        self.sent: torch.cuda.Event | None = None
        self._numbers = torch.empty(size, dtype=dtype, pin_memory=is_pinned)

    def numbers(self) -> Tensor:
        """To be filled, as soon as what is in it has been sent."""
        if self.sent is not None:
            self.sent.synchronize()
        return self._numbers


class _Part(NamedTuple):
    """Numbers of an expert that a thread brings, and where they begin in its slot."""

    begin: int
    size: int
    fill: Callable[[Tensor], object]


def _parts(expert: HostExpert) -> list[_Part]:
    """Gate, up, down and two biases (room for them, where there are none), in this order."""
    parts, begin = [], 0
    for matrix in (expert.gate, expert.up, expert.down):
        step = max(1, _PART_NUMBERS // matrix.columns)
        for first in range(0, matrix.rows, step):
            rows = min(step, matrix.rows - first)
            part = _Part(begin, rows * matrix.columns, partial(_unpack, matrix, first, rows))
            parts.append(part)
            begin += part.size
    for bias in (expert.gate_bias, expert.up_bias):
        width = expert.gate.rows
        parts.append(
            _Part(
                begin, width, partial(_put, np.zeros(width, np.float32) if bias is None else bias)
            )
        )
        begin += width
    return parts


def _unpack(matrix: _native.Matrix, first: int, rows: int, target: Tensor) -> None:
    target.copy_(torch.from_numpy(matrix.unpack(first, rows)).flatten())


def _put(bias: Floats, target: Tensor) -> None:
    target.copy_(torch.from_numpy(bias))


def _grouped(parts: Sequence[_Part], most: int) -> Iterator[list[_Part]]:
    """Neighbours, as many as go into a buffer."""
    group: list[_Part] = []
    for part in parts:
        if group and part.begin + part.size - group[0].begin > most:
            yield group
            group = []
        group.append(part)
    yield group


class _Held(NamedTuple):
    """An expert in its slot."""

    w_gate_FD: Tensor
    w_up_FD: Tensor
    w_down_DF: Tensor
    b_gate_F: Tensor | None
    b_up_F: Tensor | None
    rule: Glu

    def __call__(self, x_RD: Tensor) -> Tensor:
        """Its rows' results, float32."""
        gate_RF, up_RF = x_RD @ self.w_gate_FD.mT, x_RD @ self.w_up_FD.mT
        if self.b_gate_F is not None:
            gate_RF = gate_RF + self.b_gate_F
        if self.b_up_F is not None:
            up_RF = up_RF + self.b_up_F
        hidden_RF = reference.glu(gate_RF.float(), up_RF.float(), self.rule)
        return (hidden_RF.to(x_RD.dtype) @ self.w_down_DF.mT).float()


def _views(slot: Tensor, expert: HostExpert) -> _Held:
    width, hidden = expert.gate.rows, expert.gate.columns
    gate, up, down, gate_bias, up_bias = torch.split(
        slot[: slot_numbers(hidden, width)], [width * hidden] * 3 + [width] * 2
    )
    return _Held(
        gate.view(width, hidden),
        up.view(width, hidden),
        down.view(hidden, width),
        None if expert.gate_bias is None else gate_bias,
        None if expert.up_bias is None else up_bias,
        expert.rule,
    )


class _Queue:
    """A stream of a GPU; elsewhere everything is done when the call returns."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def inside(self) -> AbstractContextManager[object]:
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def mark(self) -> torch.cuda.Event | None:
        if self._stream is None:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def after(self, event: torch.cuda.Event | None) -> None:
        if self._stream is not None and event is not None:
            self._stream.wait_event(event)


class _Span(NamedTuple):
    """Between two marks of a queue; None where nothing is asynchronous."""

    begin: torch.cuda.Event | None
    end: torch.cuda.Event | None

    def seconds(self) -> float:
        """When the second mark has been reached."""
        if self.begin is None or self.end is None:
            return 0.0
        self.end.synchronize()
        return float(self.begin.elapsed_time(self.end)) / 1e3


class _Copied:
    def __init__(self, spans: Sequence[_Span]) -> None:
        self._spans = spans

    def is_done(self) -> bool:
        end = self._spans[-1].end
        return end is None or bool(end.query())  # type: ignore[no-untyped-call]

    def wait(self) -> float:
        """0 where a copy is no more than its preparation."""
        return sum(span.seconds() for span in self._spans)


class _Answered:
    def __init__(self, y_RD: Tensor, span: _Span) -> None:
        self._y_RD, self._span = y_RD, span

    def wait(self) -> tuple[Floats, float]:
        seconds = self._span.seconds()
        return self._y_RD.numpy(), seconds
