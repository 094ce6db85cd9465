"""Small native layers by hand, for tests that call a step piece by piece."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expertly import _native

WIDTH, SIZE, EXPERTS, CHOSEN = 64, 64, 8, 2
HEADS, HEAD_SIZE, VOCABULARY = 2, 32, 16

Floats = NDArray[np.float32]


@dataclass
class Maker:
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def matrix(self, rows: int, columns: int, spoiled: bool = False) -> _native.Matrix:
        w = (self.rng.standard_normal((rows, columns)) * 0.1).astype(np.float32)
        if spoiled:
            w[0, 0] = np.nan
        made = _native.Matrix("f32", rows, columns)
        made.pack(w.view(np.uint8).ravel())
        return made

    def norm(self, width: int = WIDTH) -> _native.Norm:
        return _native.Norm("rms", 1e-6, np.ones(width, np.float32))

    def attention(
        self,
        width: int = WIDTH,
        key_width: int = WIDTH,
        heads: int = HEADS,
        groups: int = HEADS,
        head_size: int = HEAD_SIZE,
        window: int = 0,
    ) -> _native.Attention:
        q = self.matrix(heads * head_size, width)
        k = self.matrix(groups * head_size, key_width)
        v = self.matrix(groups * head_size, width)
        o = self.matrix(width, heads * head_size)
        return _native.Attention(q, k, v, o, heads, groups, head_size, window, 1e-6)

    def bank(self, width: int = WIDTH) -> _native.Bank:
        experts = [
            _native.Expert(
                self.matrix(SIZE, width), self.matrix(SIZE, width), self.matrix(width, SIZE)
            )
            for _ in range(EXPERTS)
        ]
        return _native.Bank(experts, "silu", 1.0, None, 0.0)

    def layer(
        self,
        width: int = WIDTH,
        router_width: int | None = None,
        head_size: int = HEAD_SIZE,
        chosen: int = CHOSEN,
        spoiled: bool = False,
    ) -> _native.Layer:
        router = _native.Router(
            self.matrix(EXPERTS, router_width or width, spoiled),
            None, chosen, "softmax", 1.0, 0.0,
        )  # fmt: skip
        attention = self.attention(width, width, head_size=head_size)
        norm = self.norm(width)
        return _native.Layer(norm, attention, norm, self.bank(width), router, None, None)


class Pass:
    """A step of single-layer passes over one sequence."""

    def __init__(self, threads: int = 1) -> None:
        maker = Maker()
        self.runtime = _native.Runtime(threads)
        self.step = _native.Step(self.runtime, WIDTH)
        self.pool = _native.PagePool([HEADS], [HEAD_SIZE])
        self._page = self.pool.take()
        self._embedding = maker.matrix(VOCABULARY, WIDTH)
        self.norm, self.head = maker.norm(), maker.matrix(VOCABULARY, WIDTH)

    def begin(self, tokens: int = 1, angle: int = 0) -> None:
        places = np.arange(tokens, dtype=np.int32)
        zeros, angles = np.zeros(tokens, np.int32), np.full(tokens, angle, np.int32)
        pages = np.full((1, 1), self._page, np.int32)
        self.step.begin(self.pool, self._embedding, zeros, zeros, places, angles, pages)

    def attend(self, layer: _native.Layer, head_size: int = HEAD_SIZE) -> None:
        shape = (4, head_size // 2)
        cos, sin = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        self.step.attend(layer, 0, self.pool, cos, sin)

    def logits(self, rows: list[int], norm: _native.Norm | None = None) -> Floats:
        at = np.array(rows, np.int32)
        return self.step.logits(norm or self.norm, self.head, None, at)
