"""A mixture with several copies of each expert, side by side, their router rows alike.

With all copies of the chosen experts chosen, the sum of a token's shares stays what it was: a
softmax over n times the experts gives each copy 1/n of the share, and n copies add up; so it is
without renormalisation, with shares that sum to 1, and with a softmax over the chosen alone.
Shares divided by another p-norm shrink less than n-fold: the experts' last matrices (and biases)
make up for it.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expertly.checkpoint.stored_parameters import StoredParameters, stored_parameters
from expertly.checkpoint.streaming import Progress
from expertly.config import Layer, Mixture, ModelConfig
from expertly.errors import InputError
from expertly.families import read_config
from expertly.rewrite import cutting
from expertly.rewrite.folder import Rewritten, write_folder
from expertly.rewrite.methods import Duplication
from expertly.rewrite.shaping import differences

# where a config.json says how many experts there are and how many are chosen: all spellings
_EXPERTS: Mapping[str, tuple[str, ...]] = {
    "dbrx": ("ffn_config.moe_num_experts",),
    "deepseek": ("n_routed_experts",),
    "gpt_oss": ("num_local_experts", "num_experts"),
    "mixtral": ("num_local_experts", "num_experts"),
    "olmoe": ("num_experts", "num_local_experts"),
    "qwen2_moe": ("num_experts", "num_local_experts"),
    "qwen3_moe": ("num_experts", "num_local_experts"),
}
_CHOSEN: Mapping[str, tuple[str, ...]] = {
    "dbrx": ("ffn_config.moe_top_k",),
    "gpt_oss": ("num_experts_per_tok", "experts_per_token"),
}


def duplicate(
    folder: Path,
    config: ModelConfig,
    out: Path,
    how: Duplication,
    *,
    max_shard_bytes: int,
    progress: Progress | None,
) -> Rewritten:
    """The mixture in `folder` with `how.copies` of each expert, into `out`."""
    target = plan_duplication(config, how)
    with stored_parameters(config, folder) as source:
        copied = _Duplicated(source, how)
        num_bytes = write_folder(
            out,
            target,
            folder,
            value=copied.value,
            dtype=source.dtype,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )
    is_exact = how.noise == 0 and all(
        _mixture(new).num_chosen == how.copies * _mixture(old).num_chosen
        for new, old in zip(_mixtures(target), _mixtures(config), strict=True)
    )
    return Rewritten(folder=out, config=target, num_bytes=num_bytes, is_exact=is_exact)


def plan_duplication(config: ModelConfig, how: Duplication) -> ModelConfig:
    """The config with more experts. Raises InputError for a model without mixtures, and for a
    family whose rule does not survive copies."""
    if not config.mixture_layers:
        raise InputError(
            f"this {config.family} has no experts to copy",
            hint="`expertly upcycle DENSE OUT --experts 8` makes a mixture of a dense model",
        )
    old = _mixture(_mixtures(config)[0])
    if config.family not in _EXPERTS:
        is_of_two = old.router.rule == "sparsemixer"
        why = ": its router's rule takes no more than 2" if is_of_two else ""
        raise InputError(
            f"the experts of a {config.family} cannot be copied{why}",
            hint=f"built are: {', '.join(_EXPERTS)}",
        )
    sizes = (old.num_experts * how.copies, how.num_chosen or old.num_chosen * how.copies)
    hf = _with_sizes(config, *sizes)
    target = read_config(hf)
    layers = tuple(_grown(layer, *sizes) for layer in config.layers)
    assert not differences(replace(config, layers=layers), target)
    return target


def _with_sizes(config: ModelConfig, num_experts: int, num_chosen: int) -> dict[str, Any]:
    hf: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value
        for key, value in config.source.items()
    }
    _put(hf, _EXPERTS[config.family], num_experts)
    _put(hf, _CHOSEN.get(config.family, ("num_experts_per_tok",)), num_chosen)
    return hf


def _put(hf: dict[str, Any], names: tuple[str, ...], value: int) -> None:
    """Under every spelling that is there, or else under the first."""
    homes = [_home(hf, name) for name in names]
    present = [(section, key) for section, key in homes if key in section]
    for section, key in present or homes[:1]:
        section[key] = value


def _home(hf: dict[str, Any], name: str) -> tuple[MutableMapping[str, Any], str]:
    *sections, key = name.split(".")
    here: MutableMapping[str, Any] = hf
    for section in sections:
        here = here.setdefault(section, {})
    return here, key


def _mixtures(config: ModelConfig) -> list[Layer]:
    return [config.layers[index] for index in config.mixture_layers]


def _mixture(layer: Layer) -> Mixture:
    assert isinstance(layer.feed_forward, Mixture)
    return layer.feed_forward


def _grown(layer: Layer, num_experts: int, num_chosen: int) -> Layer:
    if not isinstance(layer.feed_forward, Mixture):
        return layer
    grown = replace(layer.feed_forward, num_experts=num_experts, num_chosen=num_chosen)
    return replace(layer, feed_forward=grown)


class _Duplicated:
    """The new parameters, each made when it is asked for."""

    def __init__(self, source: StoredParameters, how: Duplication) -> None:
        self._source = source
        self._how = how
        norm_p = _mixture(_mixtures(source.config)[0]).router.norm_p
        # the p-norm of n copies of w/n is n^(1/p - 1) times that of w
        power = 0.0 if norm_p is None else 1 / norm_p - 1
        self._scale = float(how.copies) ** power

    def value(self, parameter: str, expert: int | None) -> Tensor:
        copies = self._how.copies
        if ".experts." not in parameter:
            found = self._source.read(parameter)
            return found.repeat_interleave(copies, 0) if ".router." in parameter else found
        if expert is not None:
            return self._copy(self._source.read(parameter, expert // copies), parameter, expert)
        stack = self._source.read(parameter)
        experts = range(len(stack) * copies)
        return torch.stack([self._copy(stack[e // copies], parameter, e) for e in experts])

    def _copy(self, found: Tensor, parameter: str, expert: int) -> Tensor:
        if parameter.endswith((".w_down_EDF", ".b_down_ED")):
            found = found * self._scale
        if self._how.noise and ".w_" in parameter:
            stream = cutting.generator(self._how.seed, parameter, expert)
            spread = self._how.noise * float(found.float().std(correction=0))
            noise = torch.randn(found.shape, generator=stream) * spread
            found = (found.float() + noise).to(found.dtype)
        return found
