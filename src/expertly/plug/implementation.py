"""What is registered under a name: runs the experts of any module that transformers hands over."""

import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expertly import _native
from expertly.errors import InputError
from expertly.plug.packing import pack


class Workers:
    """Threads that serve one call at a time. What is native goes before the interpreter does,
    though transformers holds on to what was registered."""

    def __init__(self, runtime: _native.Runtime) -> None:
        self.lock = threading.Lock()
        self._held = [runtime]
        weakref.finalize(self, self._held.clear)

    @property
    def runtime(self) -> _native.Runtime:
        return self._held[0]


class _Seen:
    """A parameter as it was when it was packed."""

    def __init__(self, parameter: Tensor) -> None:
        self._parameter = weakref.ref(parameter)
        self._state = _state(parameter)

    def is_still(self, parameter: Tensor) -> bool:
        return self._parameter() is parameter and self._state == _state(parameter)


@dataclass(frozen=True)
class _Packed:
    experts: _native.Experts
    seen: list[_Seen]

    def fits(self, parameters: list[Tensor]) -> bool:
        return len(parameters) == len(self.seen) and all(
            seen.is_still(p) for seen, p in zip(self.seen, parameters, strict=True)
        )


class Implementation:
    """Experts in one of our types. A module's weights are packed at its first call, and again
    when they have changed; the packed copy goes when the module does."""

    def __init__(self, dtype: str, workers: Workers) -> None:
        self._dtype = dtype
        self._workers = workers
        self._packed: weakref.WeakKeyDictionary[torch.nn.Module, _Packed] = (
            weakref.WeakKeyDictionary()
        )
        weakref.finalize(self, self._packed.clear)

    def __call__(
        self,
        module: Any,
        hidden_states: Tensor,
        top_k_index: Tensor,
        top_k_weights: Tensor,
    ) -> Tensor:
        """As transformers' own: rows [tokens][width], and for each its experts and their weights.

        Raises InputError where gradients are wanted, for tensors that are on another device, split
        over processes or quantised, and for experts that the kernels do not compute.
        """
        parameters = list(module.parameters())
        _check(module, [hidden_states, top_k_weights, *parameters])
        x_TD = hidden_states.detach().float()
        weights_TK = top_k_weights.detach().float()
        with self._workers.lock:
            experts = self._experts(module, parameters)
            y_TD = _run(experts, module, x_TD, top_k_index.int(), weights_TK)
        return y_TD.to(hidden_states.dtype)

    def _experts(self, module: torch.nn.Module, parameters: list[Tensor]) -> _native.Experts:
        packed = self._packed.get(module)
        if packed is None or not packed.fits(parameters):
            # an old copy goes before the new one is made
            del packed
            self._packed.pop(module, None)
            bank = pack(module, self._dtype, self._workers.runtime.threads)
            packed = _Packed(
                _native.Experts(self._workers.runtime, bank), [_Seen(p) for p in parameters]
            )
            self._packed[module] = packed
        return packed.experts


def _run(
    experts: _native.Experts, module: Any, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor
) -> Tensor:
    if not module.has_post_expert_norm:
        return _call(experts, x_TD, ids_TK, weights_TK)
    # the norm stands between an expert and its weight: each row is asked for alone
    num_chosen = ids_TK.shape[1]
    x_RD = x_TD.repeat_interleave(num_chosen, dim=0)
    y_RD = _call(experts, x_RD, ids_TK.reshape(-1, 1), torch.ones(len(x_RD), 1))
    normed_TKD: Tensor = module.post_expert_norm(y_RD).float().view(*ids_TK.shape, -1)
    return (normed_TKD * weights_TK[..., None]).sum(1)


def _call(experts: _native.Experts, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
    arrays = (part.contiguous().numpy() for part in (x_TD, ids_TK, weights_TK))
    return torch.from_numpy(experts(*arrays))


def _check(module: Any, tensors: list[Tensor]) -> None:
    name = type(module).__name__
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        raise InputError(
            f"{name}: these kernels compute no gradients",
            hint="call the model under torch.no_grad(), or train it with "
            'experts_implementation="grouped_mm"',
        )
    elsewhere = sorted({str(tensor.device) for tensor in tensors if tensor.device.type != "cpu"})
    if elsewhere:
        raise InputError(
            f"{name}: these kernels run on the processor, not on {', '.join(elsewhere)}",
            hint='load the model with device_map="cpu"',
        )
    kinds = sorted({type(tensor).__name__ for tensor in tensors if not _is_plain(tensor)})
    if kinds:
        raise InputError(
            f"{name}: these kernels read plain tensors, not {', '.join(kinds)}",
            hint="load the model in one process and unquantised",
        )
    if module._is_expert_parallel:
        raise InputError(
            f"{name}: its experts are split over several processes",
            hint="load the model without a parallel plan: one process uses all cores",
        )


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is just numbers, not split or packed in a way of its own."""
    return type(tensor) in (Tensor, torch.nn.Parameter)


def _state(parameter: Tensor) -> tuple[int, int]:
    # tensors made in inference mode count no changes
    version = 0 if parameter.is_inference() else parameter._version
    return parameter.data_ptr(), version
