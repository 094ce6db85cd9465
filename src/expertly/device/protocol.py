"""What a device has to do, and what it is given."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from expertly import _native
from expertly.config import Glu

Floats = NDArray[np.float32]


class HostExpert(NamedTuple):
    """An expert as it lies in RAM: down(glu(gate x + gate_bias, up x + up_bias)). A last bias stays
    with the processor."""

    gate: _native.Matrix
    up: _native.Matrix
    down: _native.Matrix
    gate_bias: Floats | None
    up_bias: Floats | None
    rule: Glu


class Copy(Protocol):
    """A copy that was begun."""

    def is_done(self) -> bool:
        """Whether it is over, well or not."""
        ...

    def wait(self) -> float:
        """Seconds that it took on the link, when it is over. Raises RuntimeError if it failed."""
        ...


class Answer(Protocol):
    """Results that were begun."""

    def wait(self) -> tuple[Floats, float]:
        """y_RD, and seconds that it took on the device. Raises RuntimeError if it failed, or a copy
        that it needed."""
        ...


class Device(Protocol):
    """Slots for experts, and who computes with them. Copies are made in the order in which they are
    begun, and answers too; an answer waits for the copies before it, and a copy for the answers
    that still need its slot. Every call may raise RuntimeError or MemoryError."""

    slot_bytes: int

    def copy(self, slot: int, expert: HostExpert) -> Copy:
        """Begin to copy an expert into a slot; what it is copied from may change after this."""
        ...

    def compute(self, slots: Sequence[int], counts: Sequence[int], x_RD: Floats) -> Answer:
        """Begin to compute rows, `counts` of them with each slot's expert, one after another."""
        ...

    def close(self) -> None: ...
