"""How routed rows reach experts that are elsewhere."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor


class Arrived(NamedTuple):
    """Rows of the experts that are here, from everywhere, sorted by expert (E here are those);
    `back` takes their answers to where the rows came from, in the order that they were sent in."""

    x_RD: Tensor
    counts_E: Tensor
    back: Callable[[Tensor], Tensor]


class Dispatcher(Protocol):
    def send(self, x_RD: Tensor, counts_E: Tensor) -> Arrived:
        """Rows that come sorted by expert, `counts_E` of each of all experts; gradients flow
        both ways."""
        ...
