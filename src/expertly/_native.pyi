"""The native extension: C++ kernels on a pool of threads (csrc/)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Numbers = NDArray[np.int32]
Bytes = NDArray[np.uint8]

def kernel_sets() -> list[str]: ...
def layout_bytes(format: str, rows: int, columns: int) -> int: ...
def quantise(format: str, w: Floats, importance: Floats | None, threads: int) -> Bytes: ...

class Buffer:
    def __init__(self, num_bytes: int) -> None: ...
    @property
    def num_bytes(self) -> int: ...
    def array(self) -> Bytes: ...

class Matrix:
    def __init__(self, format: str, rows: int, columns: int) -> None: ...
    @staticmethod
    def view(format: str, rows: int, columns: int, buffer: Buffer, offset: int) -> Matrix: ...
    @property
    def format(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    def pack(self, blocks: Bytes, first_row: int = 0) -> None: ...
    def unpack(self, first_row: int, num_rows: int) -> Floats: ...

class Runtime:
    def __init__(self, threads: int, kernels: str = "") -> None: ...
    @property
    def threads(self) -> int: ...
    @property
    def kernels(self) -> str: ...
    def linear(self, x: Floats, weights: Matrix) -> Floats: ...

class PagePool:
    def __init__(self, groups: Sequence[int], head_sizes: Sequence[int]) -> None: ...
    @property
    def page_bytes(self) -> int: ...
    def take(self) -> int: ...
    def release(self, page: int) -> None: ...

def turn_keys(pool: PagePool, layer: int, pages: Numbers, cos: Floats, sin: Floats) -> None: ...

class Norm:
    def __init__(
        self, kind: str, eps: float, weight: Floats, bias: Floats | None = None
    ) -> None: ...

class Attention:
    def __init__(
        self,
        q: Matrix,
        k: Matrix,
        v: Matrix,
        o: Matrix,
        heads: int,
        groups: int,
        head_size: int,
        window: int,
        eps: float,
        q_bias: Floats | None = None,
        k_bias: Floats | None = None,
        v_bias: Floats | None = None,
        o_bias: Floats | None = None,
        clip: float | None = None,
        q_norm: Floats | None = None,
        k_norm: Floats | None = None,
        is_head_norm: bool = True,
        sinks: Floats | None = None,
    ) -> None: ...

class Expert:
    def __init__(
        self,
        gate: Matrix,
        up: Matrix,
        down: Matrix,
        gate_bias: Floats | None = None,
        up_bias: Floats | None = None,
        down_bias: Floats | None = None,
    ) -> None: ...

class Bank:
    def __init__(
        self, experts: Sequence[Expert], act: str, alpha: float, limit: float | None, shift: float
    ) -> None: ...

class Experts:
    def __init__(self, runtime: Runtime, bank: Bank) -> None: ...
    def __call__(self, x: Floats, ids: Numbers, weights: Floats) -> Floats: ...

class Router:
    def __init__(
        self,
        weights: Matrix,
        bias: Floats | None,
        num_chosen: int,
        kind: str,
        norm_p: float,
        jitter: float,
    ) -> None: ...

class Layer:
    def __init__(
        self,
        attention_norm: Norm,
        attention: Attention,
        feed_forward_norm: Norm,
        experts: Bank,
        router: Router | None,
        shared: Bank | None,
        shared_gate: Floats | None,
    ) -> None: ...
    def expert(
        self, expert: int
    ) -> tuple[Matrix, Matrix, Matrix, Floats | None, Floats | None]: ...
    def place(self, expert: int, gate: Matrix, up: Matrix, down: Matrix) -> None: ...

class Step:
    def __init__(self, runtime: Runtime, columns: int) -> None: ...
    def begin(
        self,
        pool: PagePool,
        embedding: Matrix,
        ids: Numbers,
        sequence: Numbers,
        position: Numbers,
        angle: Numbers,
        pages: Numbers,
    ) -> None: ...
    def attend(
        self, layer: Layer, index: int, pool: PagePool, cos: Floats, sin: Floats
    ) -> None: ...
    def feed_forward(self, layer: Layer) -> None: ...
    def begin_experts(self, layer: Layer) -> None: ...
    def add_experts(self, layer: Layer, experts: Sequence[int]) -> None: ...
    def rows_of(self, layer: Layer, experts: Sequence[int]) -> Floats: ...
    def put_rows(self, layer: Layer, experts: Sequence[int], y: Floats) -> None: ...
    def end_experts(self, layer: Layer) -> None: ...
    def choice(self, layer: Layer) -> tuple[Numbers, Floats, Floats]: ...
    def expected(self, later: Layer) -> list[int]: ...
    def set_choice(self, layer: Layer, ids: Numbers, weights: Floats) -> None: ...
    def logits(self, norm: Norm, head: Matrix, bias: Floats | None, rows: Numbers) -> Floats: ...

class GluRule:
    def __init__(self, activation: str, alpha: float, limit: float, shift: float) -> None: ...

class Trainer:
    def __init__(self, threads: int, kernels: str = "", fork: int = 0) -> None: ...
    @property
    def kernels(self) -> str: ...
    def largest(self, scores_TE: Tensor, ids_TK: Tensor) -> None: ...
    def forward(
        self,
        rule: GluRule,
        x_TD: Tensor,
        w_gate_EFD: Tensor,
        w_up_EFD: Tensor,
        w_down_EDF: Tensor,
        weight_TK: Tensor,
        order_R: Tensor,
        counts_E: Tensor,
        kept_RX: Tensor,
        y_TD: Tensor,
    ) -> None: ...
    def backward(
        self,
        rule: GluRule,
        x_TD: Tensor,
        w_gate_EFD: Tensor,
        w_up_EFD: Tensor,
        w_down_EDF: Tensor,
        weight_TK: Tensor,
        order_R: Tensor,
        counts_E: Tensor,
        kept_RX: Tensor,
        grad_y_TD: Tensor,
        grad_x_TD: Tensor,
        grad_gate_EFD: Tensor,
        grad_up_EFD: Tensor,
        grad_down_EDF: Tensor,
        grad_weight_TK: Tensor,
    ) -> None: ...

def sort_places(ids_R: Tensor, order_R: Tensor, counts_E: Tensor) -> None: ...
def read_bandwidth(runtime: Runtime, buffer: Buffer, seconds: float) -> float: ...
def int8_peak(runtime: Runtime, seconds: float) -> float: ...
def bf16_peak(runtime: Runtime, seconds: float) -> float: ...
