"""What a text does to a model's matrices: the mean square of each column of their inputs, which
tells a quantiser where its errors cost, and which experts the text reached.

One forward pass, watched from outside: torch hands each product to a mode that lives as long as
the `with` block, so the model knows nothing of it and keeps nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from expertly.checkpoint.recipe import Key, layer_of
from expertly.config import ModelConfig
from expertly.errors import InputError
from expertly.families import parameters
from expertly.mixture import Routing
from expertly.mixture.experts import Experts
from expertly.model import Decoder
from expertly.model.weights import Floats, Place, is_matrix, is_router, is_stack, places
from expertly.text import Tokenizer

WINDOW = 512
# so many rows of its layer's average stand beside an expert's own: few rows prove little
_AVERAGE_ROWS = 16
# no more of a text is encoded than is needed; few tokens are longer
_CHARS_PER_TOKEN = 8

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibration:
    """`squares`: by parameter, the sum over rows of each input column squared, (experts or 1,
    columns); `rows`: how many rows that were, an expert. `weights`: by layer, the sum of the
    shares that the router gave each expert."""

    num_tokens: int
    squares: Mapping[str, Floats]
    rows: Mapping[str, Floats]
    weights: Mapping[int, Floats]

    @property
    def unreached(self) -> tuple[tuple[int, int], ...]:
        """(layer, expert) that no token chose; they share their layer's average."""
        return tuple(
            (layer_of(name), expert)
            for name, count_E in self.rows.items()
            if ".experts.w_down" in name
            for expert in np.flatnonzero(count_E == 0).tolist()
        )

    def importance(self, place: Place) -> Floats:
        """What a squared error in each of the matrix's columns costs."""
        squares_EX, rows_E = self.squares[place.parameter], self.rows[place.parameter]
        average_X = squares_EX.sum(0) / max(1.0, float(rows_E.sum()))
        own = place.expert or 0
        sums_X = squares_EX[own] + _AVERAGE_ROWS * average_X
        found: Floats = (sums_X / (rows_E[own] + _AVERAGE_ROWS)).astype(np.float32)
        return found

    def by_parameter(self, config: ModelConfig) -> dict[str, Floats]:
        """Every matrix's importance: (columns,), or (experts, columns) of a stack."""
        found: dict[str, Floats] = {}
        for name, shape in parameters(config).items():
            if name in self.squares:
                rows = [self.importance(place) for place in places(name, shape)]
                found[name] = np.stack(rows) if is_stack(name) else rows[0]
        return found

    def use(self, layer: int, expert: int) -> tuple[float, float]:
        """The share of tokens that chose an expert, and its mean weight for those."""
        rows = float(self.rows[f"layers.{layer}.feed_forward.experts.w_down_EDF"][expert])
        weight = float(self.weights[layer][expert])
        return rows / self.num_tokens, weight / rows if rows else 0.0


def draw_windows(
    config: ModelConfig, tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """Windows of tokens from all over the texts, as many of each, `max_tokens` at most in all.
    Raises InputError if there are none."""
    size = min(WINDOW, config.max_context, max_tokens)
    each = max(1, max_tokens // (size * max(1, len(texts))))
    found: list[list[int]] = []
    for text in texts:
        chars = size * _CHARS_PER_TOKEN
        count = min(each, max(1, len(text) // chars))
        for start in (len(text) * index // count for index in range(count)):
            found.append(tokenizer.encode(text[start : start + chars])[:size])
    found = [window for window in found[: max(1, max_tokens // size)] if window]
    if not found:
        raise InputError("the calibration text is empty", hint="give a longer text")
    return found


def calibrate(
    model: Decoder, windows: Sequence[Sequence[int]], progress: Progress | None = None
) -> Calibration:
    """Watch windows of token ids go through the model, one after another. Memory: a window's
    activations, and one vector for each matrix."""
    watch = _Watch(model)
    weights = {
        layer: np.zeros(_num_experts(model.config, layer), np.float32)
        for layer in model.config.mixture_layers
    }
    for done, window in enumerate(windows, start=1):
        with torch.inference_mode(), _apart(model), watch:
            routings = model(torch.tensor([window]), routings=True).routings
        assert routings is not None
        for layer, routing in zip(weights, routings, strict=True):
            weights[layer] += _weight_sums(routing)
        if progress is not None:
            progress(done, len(windows))
    return watch.found(sum(map(len, windows)), weights)


@contextmanager
def _apart(model: Decoder) -> Iterator[None]:
    """Experts' products one by one, as the watch wants to see them."""
    stacks = [module for module in model.modules() if isinstance(module, Experts)]
    for experts in stacks:
        experts.is_apart = True
    try:
        yield
    finally:
        for experts in stacks:
            experts.is_apart = False


def _num_experts(config: ModelConfig, layer: int) -> int:
    return parameters(config)[f"layers.{layer}.feed_forward.router.w_ED"][0]


def _weight_sums(routing: Routing) -> Floats:
    parts = torch.split(routing.weight_R, routing.counts_E.tolist())
    return torch.stack([part.sum() for part in parts]).numpy()


class _Watch(TorchFunctionMode):
    """Adds up the squares of whatever is multiplied by one of the model's matrices: in torch's
    linear, matrix and grouped products the second argument."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self._homes = dict(_homes(model))
        shapes = {name: (key_rows, width) for name, key_rows, width in _sizes(model.config)}
        self._squares = {name: torch.zeros(shape) for name, shape in shapes.items()}
        self._rows = {name: torch.zeros(shape[0]) for name, shape in shapes.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
            key = self._homes.get(args[1].data_ptr())
            # an embedding takes ids
            if key is not None and args[0].is_floating_point():
                self._add(key, args[0], kwargs.get("offs"))
        return func(*args, **kwargs)

    def _add(self, key: Key, x_X: Tensor, ends_E: Tensor | None) -> None:
        """Rows of one matrix, or (with the row at which each expert's end) of a stack."""
        name, expert = key
        x_RX = x_X.reshape(-1, x_X.shape[-1]).float()
        expert_R = torch.full((len(x_RX),), expert or 0)
        if ends_E is not None:
            expert_R = torch.searchsorted(ends_E.long(), torch.arange(len(x_RX)), right=True)
        self._squares[name].index_add_(0, expert_R, x_RX.square())
        self._rows[name] += torch.bincount(expert_R, minlength=len(self._rows[name]))

    def found(self, num_tokens: int, weights: Mapping[int, Floats]) -> Calibration:
        squares = {name: tensor.numpy() for name, tensor in self._squares.items()}
        rows = {name: tensor.numpy() for name, tensor in self._rows.items()}
        unseen = [name for name, rows_E in rows.items() if not rows_E.any() and name != "embed_VD"]
        assert not unseen, unseen
        return Calibration(num_tokens, squares, rows, weights)


def _homes(model: Decoder) -> Iterator[tuple[int, Key]]:
    """Where each matrix lies in memory, and whose it is."""
    for name, parameter in model.named_parameters():
        if not is_matrix(name) or is_router(name):
            continue
        if not is_stack(name):
            yield parameter.data_ptr(), (name, None)
            continue
        for expert, matrix in enumerate(parameter.detach()):
            yield matrix.data_ptr(), (name, expert)


def _sizes(config: ModelConfig) -> Iterator[tuple[str, int, int]]:
    """Each matrix's name, number of experts (or 1) and columns."""
    for name, shape in parameters(config).items():
        if is_matrix(name) and not is_router(name):
            own = next(places(name, shape))
            yield name, shape[0] if is_stack(name) else 1, own.columns
