"""The rows of a run's metrics as TensorBoard's scalars."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expertly.errors import RecipeError

# what of a reading is a number of its own
_LEFT_OUT = ("num_experts", "busiest", "step", "layer")


class Board:
    """Writes into a folder; rows from `step` on that an interrupted run left there are not shown.

    Raises RecipeError where TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RecipeError(
                "[run] tensorboard is true, and the package tensorboard is not installed",
                hint="pip install tensorboard, or leave it out: metrics.jsonl has it all",
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        for name, value in scalars(kind, values):
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def scalars(kind: str, values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and numbers of a row: dead experts as how many they are, a text's by its name."""
    prefix = f"{kind}/layer {values['layer']}" if kind == "router" else kind
    for name, value in values.items():
        if name == "dead":
            yield f"{prefix}/dead experts", float(len(value))
        elif isinstance(value, Mapping):
            yield from ((f"{kind}/{name}/{part}", float(x)) for part, x in value.items())
        elif name not in _LEFT_OUT and isinstance(value, int | float):
            yield f"{prefix}/{name}", float(value)
