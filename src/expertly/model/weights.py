"""The native decoder's weights: which parameters are matrices in kernel layout, and which vectors.

Vectors (norms, biases, sinks) and routers are float32 whatever the matrices are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from expertly import _native

Floats = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """One matrix: a parameter, or one expert of its stack."""

    parameter: str
    expert: int | None
    rows: int
    columns: int


@dataclass
class NativeWeights:
    """`vectors` by parameter name; stacks of vectors are [experts][size]. Of routed experts there
    may be `num_copies`, which differ in their matrices' formats: the second copy's matrices are
    numbered after all of the first's."""

    matrices: dict[tuple[str, int | None], _native.Matrix] = field(default_factory=dict)
    vectors: dict[str, Floats] = field(default_factory=dict)
    num_copies: int = 1

    def matrix(self, parameter: str, expert: int | None = None) -> _native.Matrix:
        return self.matrices[parameter, expert]

    def vector(self, parameter: str) -> Floats | None:
        return self.vectors.get(parameter)

    def row_of(self, parameter: str, expert: int) -> Floats | None:
        """One expert's vector of a stack."""
        stack = self.vectors.get(parameter)
        return None if stack is None else np.ascontiguousarray(stack[expert])


def is_matrix(parameter: str) -> bool:
    leaf = parameter.rpartition(".")[2]
    return leaf in ("embed_VD", "head_VD") or (
        leaf.startswith("w_") and not leaf.endswith("_gate_D")
    )


def is_stack(parameter: str) -> bool:
    return ".experts." in parameter


def is_router(parameter: str) -> bool:
    return parameter.endswith(".router.w_ED")


def places(parameter: str, shape: Shape) -> Iterator[Place]:
    """The matrices of a parameter of this shape, as rows (outputs) and columns (inputs)."""
    count, matrix = (shape[0], shape[1:]) if is_stack(parameter) else (None, shape)
    # outputs first; only attention's w_o has its two axes of inputs last
    num_outputs = 1 if parameter.endswith("w_o_DHC") else len(matrix) - 1
    rows, columns = math.prod(matrix[:num_outputs]), math.prod(matrix[num_outputs:])
    for expert in [None] if count is None else range(count):
        yield Place(parameter, expert, rows, columns)
