"""The experts of a module of transformers as a bank of native ones, in kernel layout."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expertly import _native
from expertly.checkpoint.filling import Bytes, Job, ReadRows, fill
from expertly.config import Glu
from expertly.errors import InputError
from expertly.model.allocate import allocate
from expertly.model.weights import Floats, NativeWeights, Place
from expertly.plug.gates import rule_of

FORMATS = {"bf16": "bf16", "int8": "q8_0", "int4": "i4"}

_TRAITS = {"has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "is_concatenated"}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Stacks:
    """Weights by expert, outputs first; experts without a gate have their up in its place."""

    gate_EFD: Tensor
    up_EFD: Tensor
    down_EDF: Tensor
    b_gate_EF: Tensor | None
    b_up_EF: Tensor | None
    b_down_ED: Tensor | None

    @property
    def has_gate(self) -> bool:
        return self.gate_EFD is not self.up_EFD


def pack(module: Any, dtype: str, threads: int) -> _native.Bank:
    """A packed copy of a module's experts, rounded to `dtype`.

    Raises InputError, naming it, for what the kernels do not compute.
    """
    rule = checked_rule(module)
    experts = _experts(stacks_of(module), FORMATS[dtype], threads)
    return _native.Bank(experts, rule.activation, rule.alpha, rule.limit, rule.up_shift)


def checked_rule(module: Any) -> Glu:
    """The activation of a module that the kernels compute wholly.

    Raises InputError for traits, parameters and types that nobody here has heard of.
    """
    _check_known(module)
    return rule_of(module, stacks_of(module).up_EFD.shape[1])


def stacks_of(module: Any) -> Stacks:
    """A module's weights as views; nothing is copied."""
    if module.has_gate:
        gate_EFD, up_EFD = _halves(_outputs_first(module, "gate_up_proj"), module)
    else:
        gate_EFD = up_EFD = _outputs_first(module, "up_proj")
    b_gate_EF, b_up_EF, b_down_ED = _biases(module)
    down_EDF = _outputs_first(module, "down_proj")
    return Stacks(gate_EFD, up_EFD, down_EDF, b_gate_EF, b_up_EF, b_down_ED)


def _outputs_first(module: Any, name: str) -> Tensor:
    stack: Tensor = getattr(module, name).detach()
    return stack.transpose(1, 2) if module.is_transposed else stack


def _halves(both: Tensor, module: Any) -> tuple[Tensor, Tensor]:
    """Gate and up of a stack [experts][both]..."""
    if not module.is_concatenated:
        return both[:, ::2], both[:, 1::2]
    size = both.shape[1] // 2
    return both[:, :size], both[:, size:]


def _biases(module: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    if not module.has_bias:
        return None, None, None
    if not module.has_gate:
        b_up_EF = module.up_proj_bias.detach()
        return b_up_EF, b_up_EF, module.down_proj_bias.detach()
    return *_halves(module.gate_up_proj_bias.detach(), module), module.down_proj_bias.detach()


def _check_known(module: Any) -> None:
    name = type(module).__name__
    strange = sorted(
        key
        for key, value in vars(module).items()
        if key.startswith(("has_", "is_")) and key not in _TRAITS and value
    )
    first = "gate_up_proj" if module.has_gate else "up_proj"
    known = {first, "down_proj"} | (
        {f"{first}_bias", "down_proj_bias"} if module.has_bias else set()
    )
    parameters = dict(module.named_parameters())
    strange += [
        key
        for key in parameters
        if key not in known
        and not (module.has_post_expert_norm and key.startswith("post_expert_norm."))
    ]
    strange += [
        f"{key} of type {p.dtype}" for key, p in parameters.items() if p.dtype not in _DTYPES
    ]
    if strange or not known <= parameters.keys():
        missing = [f"no {key}" for key in sorted(known - parameters.keys())]
        raise InputError(
            f"{name}: the kernels cannot read {', '.join(strange + missing)}",
            hint='run this model with experts_implementation="grouped_mm"',
        )


def _experts(stacks: Stacks, name: str, threads: int) -> list[_native.Expert]:
    tensors = {"gate": stacks.gate_EFD, "up": stacks.up_EFD, "down": stacks.down_EDF}
    if not stacks.has_gate:
        del tensors["gate"]
    weights = _matrices(tensors, name, threads)
    gates = "gate" if stacks.has_gate else "up"
    return [
        _native.Expert(
            weights.matrix(_parameter(gates), e),
            weights.matrix(_parameter("up"), e),
            weights.matrix(_parameter("down"), e),
            _row(stacks.b_gate_EF, e),
            _row(stacks.b_up_EF, e),
            _row(stacks.b_down_ED, e),
        )
        for e in range(len(stacks.up_EFD))
    ]


def _matrices(stacks: dict[str, Tensor], name: str, threads: int) -> NativeWeights:
    """Stacks of matrices in one format, filled in parallel; those of an expert lie together."""
    places = {
        (key, e): Place(_parameter(key), e, stack.shape[1], stack.shape[2])
        for key, stack in stacks.items()
        for e in range(len(stack))
    }
    formats = {(place.parameter, place.expert): name for place in places.values()}
    weights = allocate(list(places.values()), formats)
    jobs = (
        Job(weights.matrix(place.parameter, e), _reader(stacks[key][e], name), 4 * place.columns)
        for (key, e), place in places.items()
    )
    fill(jobs, threads)
    return weights


def _parameter(key: str) -> str:
    # a module's experts are a model of one layer
    return f"layers.0.{key}"


def _reader(matrix_RC: Tensor, name: str) -> ReadRows:
    def read(first: int, count: int, room: Bytes) -> Bytes:
        rows = matrix_RC[first : first + count]
        if name == "bf16":
            blocks: Bytes = rows.bfloat16().contiguous().view(-1).view(torch.uint8).numpy()
            return blocks
        return _native.quantise(name, rows.float().contiguous().numpy(), None, 1).reshape(-1)

    return read


def _row(stack: Tensor | None, expert: int) -> Floats | None:
    return None if stack is None else stack[expert].float().contiguous().numpy()
