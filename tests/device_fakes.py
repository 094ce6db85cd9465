"""Devices without a device: one that computes with the native kernels, and troubles to put before
any; ladders that decide at random; a turn that keeps count."""

import random
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from expertly import _native
from expertly.device import Answer, Copy, Device, HostExpert
from expertly.device.protocol import Floats
from expertly.store.ladder import Ladder, Rated
from expertly.store.policies import Key
from expertly.store.split import Split


def twin(expert: HostExpert) -> HostExpert:
    """A copy of its own, of float formats, which keep every bit on the way."""

    def copied(matrix: _native.Matrix) -> _native.Matrix:
        assert matrix.format in ("f32", "f16", "bf16")
        made = _native.Matrix(matrix.format, matrix.rows, matrix.columns)
        rows = matrix.unpack(0, matrix.rows)
        made.pack(_native.quantise(matrix.format, rows, None, 1).reshape(-1))
        return made

    matrices = (copied(matrix) for matrix in (expert.gate, expert.up, expert.down))
    return HostExpert(*matrices, *expert[3:])


class Done:
    def __init__(self, y_RD: Floats) -> None:
        self._y_RD = y_RD

    def is_done(self) -> bool:
        return True

    def wait(self) -> tuple[Floats, float]:
        return self._y_RD, 1e-6


class Copied(Done):
    def wait(self) -> float:  # type: ignore[override]
        return 1e-6


class Failed:
    def is_done(self) -> bool:
        return True

    def wait(self) -> tuple[Floats, float]:
        raise RuntimeError("lost")


class NativeDevice:
    """Experts in slots, computed by the kernels that would compute them anyway. `take` makes its
    copies: none, where what is copied never changes."""

    slot_bytes = 1000

    def __init__(self, take: Callable[[HostExpert], HostExpert] = lambda expert: expert) -> None:
        self._take = take
        self._runtime = _native.Runtime(1)
        self._held: dict[int, HostExpert] = {}
        self.is_closed = False

    def copy(self, slot: int, expert: HostExpert) -> Copied:
        self._held[slot] = self._take(expert)
        return Copied(np.zeros((0, 0), np.float32))

    def compute(self, slots: Sequence[int], counts: Sequence[int], x_RD: Floats) -> Done:
        bounds = np.cumsum(counts)[:-1]
        parts = np.split(x_RD, bounds)
        return Done(np.concatenate([self._one(*each) for each in zip(slots, parts, strict=True)]))

    def _one(self, slot: int, x_RD: Floats) -> Floats:
        held = self._held[slot]
        rule = held.rule
        expert = _native.Expert(held.gate, held.up, held.down, held.gate_bias, held.up_bias)
        bank = _native.Bank([expert], rule.activation, rule.alpha, rule.limit, rule.up_shift)
        once = np.zeros((len(x_RD), 1), np.int32), np.ones((len(x_RD), 1), np.float32)
        return _native.Experts(self._runtime, bank)(np.ascontiguousarray(x_RD), *once)

    def close(self) -> None:
        self.is_closed = True


class Troubled:
    """A device before which things go wrong: of each kind, one in so many."""

    def __init__(self, device: Device, source: random.Random, one_in: int) -> None:
        self.slot_bytes = device.slot_bytes
        self._device, self._source, self._one_in = device, source, one_in
        # slots whose last copy was lost
        self._lost: set[int] = set()

    def _fails(self) -> bool:
        return self._source.randrange(self._one_in) == 0

    def copy(self, slot: int, expert: HostExpert) -> Copy:
        if self._fails():
            raise MemoryError("no room")
        self._lost.discard(slot)
        copy = self._device.copy(slot, expert)
        if self._fails():
            self._lost.add(slot)
            return Failed()  # type: ignore[return-value]
        return copy

    def compute(self, slots: Sequence[int], counts: Sequence[int], x_RD: Floats) -> Answer:
        if self._fails():
            raise RuntimeError("not now")
        answer = self._device.compute(slots, counts, x_RD)
        return Failed() if self._fails() or self._lost & set(slots) else answer

    def close(self) -> None:
        self._device.close()


class RandomLadder(Ladder):
    """Decides by dice, within what is possible."""

    def __init__(self, num_slots: int, policy: Rated, seed: int) -> None:
        super().__init__(num_slots, policy)
        self.source = random.Random(seed)

    def plan(
        self, now: float, layer: int, rows: Mapping[int, int], in_memory: Collection[int]
    ) -> Split:
        super().plan(now, layer, rows, in_memory)
        dice = {expert: self.source.randrange(3) for expert in rows}
        held = tuple(e for e in rows if dice[e] and self.holds((layer, e)))
        copied = tuple(e for e in rows if dice[e] and not self.holds((layer, e)))
        rest = tuple(e for e in rows if not dice[e])
        return Split(held, copied, rest, 0.0)

    def wants(self, now: float, key: Key) -> bool:
        return not self.is_off and key not in self.slots and self.source.randrange(3) == 0


class Counted:
    """A turn without numbers: how often each expert was computed, and where."""

    def __init__(self, rows: Mapping[int, int]) -> None:
        self._rows = rows
        self.here: Counter[int] = Counter()
        self.there: Counter[int] = Counter()

    def rows_of(self, experts: Sequence[int]) -> Floats:
        return np.zeros((sum(self._rows[e] for e in experts), 0), np.float32)

    def put_rows(self, experts: Sequence[int], y_RD: Floats) -> None:
        self.there.update(experts)

    def add(self, experts: Sequence[int]) -> None:
        self.here.update(experts)
