"""A dense model into a mixture whose experts are cut from its feed-forwards, tensor by tensor."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from expertly.checkpoint.stored_parameters import StoredParameters, stored_parameters
from expertly.checkpoint.streaming import Progress
from expertly.config import Dense, ModelConfig
from expertly.errors import InputError
from expertly.families import parameters
from expertly.rewrite import cutting
from expertly.rewrite.cutting import Cut
from expertly.rewrite.duplicating import duplicate
from expertly.rewrite.folder import Rewritten, check_new, open_source, write_folder
from expertly.rewrite.fresh import half_open_gate, random_router, silent_expert
from expertly.rewrite.methods import Duplication, Upcycling
from expertly.rewrite.names import dense_name, kind_of, layer_of
from expertly.rewrite.shaping import Shape, check_dense, to_mixture

_CUTS: dict[str, Callable[..., Tensor]] = {
    "gate": cutting.cut_gate,
    "up": cutting.cut_up,
    "down": cutting.cut_down,
}


def upcycle(
    model: str | Path,
    out: str | Path,
    how: Upcycling | Duplication,
    *,
    max_shard_bytes: int = 4_000_000_000,
    progress: Progress | None = None,
) -> Rewritten:
    """A mixture made of a dense model (`Upcycling`) or of a smaller mixture (`Duplication`), into
    a folder that transformers and `load` read.

    Weights keep the type they are stored in. Peak memory is one layer's feed-forward and one
    tensor. `progress` is told bytes done and of all. Raises InputError for what the model is not
    or does not allow, ConfigError and CheckpointError for its files, OutputError for `out`.
    """
    out = Path(out)
    check_new(out)
    folder, config = open_source(model)
    if isinstance(how, Duplication):
        return duplicate(
            folder, config, out, how, max_shard_bytes=max_shard_bytes, progress=progress
        )
    target = plan_upcycling(config, how)
    with stored_parameters(config, folder) as source:
        upcycled = _Upcycled(source, target, how)
        num_bytes = write_folder(
            out,
            target,
            folder,
            value=upcycled.value,
            dtype=upcycled.dtype,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )
    return Rewritten(folder=out, config=target, num_bytes=num_bytes, is_exact=how.is_exact)


def plan_upcycling(config: ModelConfig, how: Upcycling) -> ModelConfig:
    """The config of the mixture that `how` makes of a dense model. Raises InputError."""
    check_dense(config)
    dense = config.layers[0].feed_forward
    assert isinstance(dense, Dense)
    part, left = divmod(dense.size, how.granularity)
    if left:
        raise InputError(
            f"a feed-forward of width {dense.size} cannot be cut into {how.granularity} parts",
            hint=f"give a granularity that divides {dense.size}",
        )
    if how.every > len(config.layers):
        raise InputError(
            f"every {how.every} layers, and the model has {len(config.layers)}",
            hint="give a smaller number",
        )
    shape = Shape(
        num_experts=how.num_experts,
        num_chosen=how.chosen,
        expert_size=part,
        shared_size=how.shared * part,
        every=how.every,
    )
    return to_mixture(config, shape, how.family)


class _Upcycled:
    """The mixture's parameters, each made when it is asked for; holds one layer's matrices."""

    def __init__(self, source: StoredParameters, target: ModelConfig, how: Upcycling) -> None:
        self._source = source
        self._target = target
        self._how = how
        self._layer = -1
        self._matrices: dict[str, Tensor] = {}
        self._cuts: dict[int, Cut] = {}

    def dtype(self, parameter: str) -> torch.dtype:
        """New parameters take the type of the feed-forward that they belong to."""
        if parameter in self._source:
            return self._source.dtype(parameter)
        return self._source.dtype(dense_name(layer_of(parameter), "gate"))

    def value(self, parameter: str, expert: int | None) -> Tensor:
        if parameter in self._source:
            return self._source.read(parameter)
        layer = layer_of(parameter)
        leaf = parameter.split(".feed_forward.")[1]
        if leaf == "router.w_ED":
            return self._router(layer)
        if leaf == "w_shared_gate_D":
            return half_open_gate(self._target.hidden_size)
        kind = kind_of(parameter)
        if leaf.startswith("shared."):
            return self._shared(layer, kind, parameters(self._target)[parameter])
        assert expert is not None
        self._enter(layer)
        if expert not in self._cuts:
            self._cuts = {expert: self._cut(layer, expert)}
        return _CUTS[kind](self._matrices[kind], self._cuts[expert], self._how.seed, layer, expert)

    def _router(self, layer: int) -> Tensor:
        """In virtual groups all parts of a set have the same row."""
        parts = self._how.routed_parts if self._how.method == "virtual-groups" else 1
        rows = self._how.num_experts // parts
        w_ED = random_router(self._how.seed, layer, rows, self._target.hidden_size)
        return w_ED.repeat_interleave(parts, 0)

    def _enter(self, layer: int) -> None:
        if layer == self._layer:
            return
        self._layer, self._matrices, self._cuts = layer, {}, {}
        for kind in _CUTS:
            self._matrices[kind] = self._source.read(dense_name(layer, kind))

    def _units(self, layer: int) -> tuple[Tensor, Tensor]:
        """Units of the shared expert, and those that are routed."""
        how, size = self._how, self._matrices["gate"].shape[0]
        if how.is_whole:
            return torch.arange(size), torch.arange(size)
        units = torch.arange(size)
        if how.method == "fine-grained":
            units = cutting.permuted(size, how.seed, layer, "units")
        num_shared = size // how.granularity * how.shared
        return units[:num_shared].sort().values, units[num_shared:].sort().values

    def _cut(self, layer: int, expert: int) -> Cut:
        how = self._how
        units = self._units(layer)[1]
        replica, part = divmod(expert, how.routed_parts)
        if how.method == "fine-grained":
            units = units[cutting.permuted(len(units), how.seed, layer, replica, "shuffle")]
        units = units.chunk(how.routed_parts)[part].sort().values
        up, down = cutting.factors(how.routed_scale)
        return Cut(
            units=units,
            redrawn=cutting.some(len(units), how.redrawn, how.seed, layer, expert, "redrawn"),
            up=up,
            down=down,
            noise=how.noise,
        )

    def _shared(self, layer: int, kind: str, shape: tuple[int, ...]) -> Tensor:
        if not self._how.shared:
            return silent_expert(kind, shape, self._how.seed, layer)
        self._enter(layer)
        nothing = torch.empty(0, dtype=torch.int64)
        units = self._units(layer)[0]
        # twice, because its gate halves it
        cut = Cut(units=units, redrawn=nothing, down=2.0 * self._how.shared_scale)
        return _CUTS[kind](self._matrices[kind], cut, self._how.seed, layer, "shared")
