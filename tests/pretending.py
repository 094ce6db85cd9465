"""A pretended GPU: tensors that say they are on another device and hold the processor's numbers.

An operation that mixes devices is refused as CUDA refuses it, and each one for which a process
would wait for its GPU is written down. torch's hooks for backends in Python stay for a process's
life, so a script that uses this is a process of its own.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
# tensors of two devices may meet in these
_COPIES = {aten.copy_.default, aten._to_copy.default}
# what has an answer whose size or value the process must know
_WAITING = {
    "aten::_local_scalar_dense",
    "aten::bincount",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::_unique2",
}


class _Module:
    """What torch asks of a backend."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class Pretended(Tensor):
    """`inner` has the numbers."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "Pretended":
        return Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
            # asked of `inner` each time: products squeeze their answers in place
            dispatch_sizes_strides_policy="sizes",
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"Pretended({self.inner!r})"

    def tolist(self) -> list:
        waits["tolist"] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _compute(func, args, kwargs or {})


_setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
DEVICE = torch.device("pretend", 0)
# `torch.tensor` asks for these below all modes
_LIBRARY = torch.library.Library("aten", "IMPL")
# autocast changes nothing here, but for code that asks for its type
_AUTOCAST = torch.library.Library("_", "IMPL")
_AUTOCAST.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")


def _empty(size, *, dtype=None, **_):
    return Pretended(torch.empty(size, dtype=dtype))


def _empty_strided(size, stride, *, dtype=None, **_):
    return Pretended(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source, target, non_blocking=False):
    _inner(target).copy_(_inner(source))
    return target


_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
waits: Counter[str] = Counter()


@contextmanager
def pretending() -> Iterator[None]:
    """Tensors can be made on `DEVICE`."""
    with _Factories():
        yield


def waited_for(work: Callable[[], Any]) -> dict[str, int]:
    """The operations of `work` that waited for the device."""
    before = Counter(waits)
    work()
    return dict(waits - before)


_SHAPES: dict[Any, Callable[[Tensor], Any]] = {
    aten.sym_size.default: lambda inner: inner.shape,
    aten.size.default: lambda inner: inner.shape,
    aten.sym_stride.default: lambda inner: inner.stride(),
    aten.stride.default: lambda inner: inner.stride(),
    aten.sym_numel.default: lambda inner: inner.numel(),
    aten.numel.default: lambda inner: inner.numel(),
    aten.dim.default: lambda inner: inner.dim(),
    aten.sym_storage_offset.default: lambda inner: inner.storage_offset(),
    aten.storage_offset.default: lambda inner: inner.storage_offset(),
}


def _compute(func: Any, args: tuple, kwargs: dict) -> Any:
    if func in _SHAPES:
        return _SHAPES[func](_inner(args[0]))
    tensors = [part for part in pytree.tree_leaves((args, kwargs)) if isinstance(part, Tensor)]
    _refuse_two_devices(func, tensors)
    asked = kwargs.get("device")
    is_ours = any(isinstance(part, Pretended) for part in tensors)
    if is_ours:
        _note_waiting(func, args, kwargs)
    goes_there = is_ours if asked is None else torch.device(asked).type == DEVICE.type
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner_args, inner_kwargs = pytree.tree_map(_inner, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if func._schema.is_mutable:
        return _same_objects(func, args, kwargs, out)
    return pytree.tree_map(_wrapped, out) if goes_there else out


def _same_objects(func: Any, args: tuple, kwargs: dict, out: Any) -> Any:
    """What was changed in place is what was given."""
    named = [a.name for a in func._schema.arguments]
    given = {**dict(zip(named, args, strict=False)), **kwargs}
    changed = [
        given[a.name]
        for a in func._schema.arguments
        if a.alias_info is not None and a.alias_info.is_write and a.name in given
    ]
    if not func._schema.returns:
        return None
    return changed[0] if len(func._schema.returns) == 1 else tuple(changed)


def _refuse_two_devices(func: Any, tensors: list[Tensor]) -> None:
    if func in _COPIES:
        return
    # as with CUDA a number without dimensions may be anywhere, but is not written to or joined
    is_strict = func._schema.is_mutable or func._schema.name in ("aten::cat", "aten::stack")
    kinds = {isinstance(part, Pretended) for part in tensors if part.dim() > 0}
    if is_strict:
        kinds.add(isinstance(tensors[0], Pretended))
    kinds |= {True for part in tensors if isinstance(part, Pretended)}
    if len(kinds) > 1:
        raise RuntimeError(f"{func} of tensors on two devices")


def _note_waiting(func: Any, args: tuple, kwargs: dict) -> None:
    name = func._schema.name
    is_index = name == "aten::index" and any(
        part is not None and part.dtype == torch.bool for part in args[1]
    )
    is_open = name == "aten::repeat_interleave" and kwargs.get("output_size") is None
    leaves = name == "aten::_to_copy" and kwargs.get("device") == torch.device("cpu")
    if name in _WAITING or is_index or is_open or leaves:
        waits[name] += 1


def _inner(part: Any) -> Any:
    return part.inner if isinstance(part, Pretended) else part


def _wrapped(part: Any) -> Any:
    return Pretended(part) if isinstance(part, Tensor) and not isinstance(part, Pretended) else part
