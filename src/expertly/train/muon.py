"""Muon: hidden matrices moved by the nearest orthogonal matrix to their momentum."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

# coefficients of the quintic iteration that brings every singular value near 1 (Keller Jordan,
# "Muon: an optimizer for hidden layers in neural networks", 2024)
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5


def orthogonalise(x: Tensor) -> Tensor:
    """U V^T, roughly, for x = U S V^T: singular values between about 0.7 and 1.2. A stack of
    matrices (leading dimensions) is done together, each by itself."""
    is_tall = x.shape[-2] > x.shape[-1]
    y = x.mT if is_tall else x
    norm: Tensor = torch.linalg.matrix_norm(y, keepdim=True)
    y = y / (norm + 1e-7)
    for _ in range(_ITERATIONS):
        gram = y @ y.mT
        y = _A * y + (_B * gram + _C * gram @ gram) @ y
    return y.mT if is_tall else y


def as_matrices(name: str, parameter: Tensor) -> Tensor:
    """The parameter's matrices as the products see them: heads joined, experts stacked."""
    leaf = name.rpartition(".")[2]
    if leaf in ("w_q_HCD", "w_k_GCD", "w_v_GCD"):
        return parameter.flatten(0, 1)
    return parameter.flatten(1) if leaf == "w_o_DHC" else parameter


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled by sqrt(rows / columns) where that is above 1;
    decoupled weight decay."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float = 0.95,
    ) -> None:
        pairs = list(named)
        self._names = {id(parameter): name for name, parameter in pairs}
        defaults: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([parameter for _, parameter in pairs], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)

    def _move(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(grad, 1 - group["momentum"])
        ahead = grad.lerp(state["momentum"], group["momentum"])
        whole = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
        turned = orthogonalise(as_matrices(self._names[id(parameter)], whole))
        scale = max(1.0, turned.shape[-2] / turned.shape[-1]) ** 0.5
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(_like(turned.reshape(whole.shape), ahead), alpha=-group["lr"] * scale)


def _like(whole: Tensor, ahead: Tensor) -> Tensor:
    """This rank's shard, where there are shards."""
    if not isinstance(ahead, DTensor):
        return whole
    return distribute_tensor(whole, ahead.device_mesh, ahead.placements, src_data_rank=None)
