"""The loop over experts against torch's grouped product, by rows and by experts."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.harness import interleave
from expertly import kernels
from expertly.kernels import reference

_SHAPES = [(8, 256, 256), (64, 256, 64), (128, 2048, 768)]  # experts, width in, width out
_ROWS = [8, 32, 128, 512, 2048]
Path = Callable[[Tensor, Tensor, Tensor], Tensor]
_PATHS: dict[str, Path] = {"loop": reference.grouped_mm, "torch": kernels.torch_grouped_mm}


def rows(dtype: torch.dtype) -> Iterator[dict[str, object]]:
    """A row a shape, number of rows and direction; `ratio` is torch's time to the loop's."""
    for experts, width_in, width_out in _SHAPES:
        for num_rows in _ROWS:
            for direction in ("forward", "both"):
                timed = interleave(
                    {
                        name: _work(path, experts, width_in, width_out, num_rows, direction, dtype)
                        for name, path in _PATHS.items()
                    }
                )
                yield {
                    "experts": experts,
                    "width_in": width_in,
                    "width_out": width_out,
                    "rows": num_rows,
                    "direction": direction,
                    "loop_ms": round(timed.milliseconds["loop"], 3),
                    "torch_ms": round(timed.milliseconds["torch"], 3),
                    "ratio": round(timed.ratio["torch"], 3),
                    "spread": [round(value, 3) for value in timed.spread["torch"]],
                }


def _work(
    path: Path,
    experts: int,
    width_in: int,
    width_out: int,
    num_rows: int,
    direction: str,
    dtype: torch.dtype,
) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(num_rows)
    expert_R = torch.randint(0, experts, (num_rows,), generator=generator)
    counts_E = torch.bincount(expert_R, minlength=experts)
    x_RD = torch.randn(num_rows, width_in, generator=generator).to(dtype)
    w_EFD = torch.randn(experts, width_out, width_in, generator=generator).to(dtype)
    if direction == "forward":
        return lambda: path(x_RD, w_EFD, counts_E)
    x_RD.requires_grad_()
    w_EFD.requires_grad_()
    grad_RF = torch.randn(num_rows, width_out, generator=generator).to(dtype)

    def both() -> object:
        return torch.autograd.grad(path(x_RD, w_EFD, counts_E), (x_RD, w_EFD), grad_RF)

    return both
