"""How a checkpoint's tensors map to ours: data that one reader and one writer walk both ways.

Knows names and shapes, not tensors: a view is any function of a tensor-like value that returns
a view of it, so that reading copies out of it and writing copies into it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

View = Callable[[Any], Any]


@dataclass(frozen=True)
class Part:
    """The part of a stored tensor that fills one parameter, or one expert of its stack.

    `view` turns the stored tensor into one of the parameter's shape; None: same memory order.
    """

    parameter: str
    expert: int | None = None
    view: View | None = None


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: its name, its shape there, and what it holds."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


Names = Iterator[Stored]
