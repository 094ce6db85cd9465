"""Several fine-tuned copies of one dense model into one mixture: a model an expert."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from expertly.checkpoint import load
from expertly.checkpoint.shards import read_json
from expertly.checkpoint.stored_parameters import StoredParameters, stored_parameters
from expertly.checkpoint.streaming import Progress
from expertly.config import Dense, ModelConfig
from expertly.errors import InputError
from expertly.families import parameters
from expertly.rewrite.folder import Rewritten, check_new, open_source, write_folder
from expertly.rewrite.fresh import half_open_gate, random_router, silent_expert
from expertly.rewrite.gates import prompt_gates
from expertly.rewrite.merge_recipe import MergeRecipe, read_merge_recipe
from expertly.rewrite.names import dense_name, kind_of, layer_of
from expertly.rewrite.shaping import Shape, check_dense, differences, to_mixture


def merge(
    recipe: MergeRecipe | str | Path,
    out: str | Path,
    *,
    max_shard_bytes: int = 4_000_000_000,
    progress: Progress | None = None,
) -> Rewritten:
    """A mixture of the models that a recipe names (or a TOML file with one), into a folder that
    transformers and `load` read.

    Weights keep the base's types. Peak memory is three tensors; gates made of prompts run the base
    in float32 first. Raises RecipeError for the recipe, InputError for models that do not go
    together, ConfigError and CheckpointError for their files, OutputError for `out`.
    """
    recipe = recipe if isinstance(recipe, MergeRecipe) else read_merge_recipe(Path(recipe))
    out = Path(out)
    check_new(out)
    folder, base = open_source(recipe.base_source)
    check_dense(base)
    with ExitStack() as stack:
        experts = []
        for expert in recipe.experts:
            place, config = open_source(expert.source)
            _check_alike(expert.source, (folder, base), (place, config))
            experts.append(stack.enter_context(stored_parameters(config, place)))
        source = stack.enter_context(stored_parameters(base, folder))
        _check_types(recipe, source, experts)
        target = _plan(base, recipe)
        merged = _Merged(source, experts, target, recipe, _gates(folder, recipe))
        num_bytes = write_folder(
            out,
            target,
            folder,
            value=merged.value,
            dtype=merged.dtype,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )
    return Rewritten(folder=out, config=target, num_bytes=num_bytes, is_exact=False)


def _plan(base: ModelConfig, recipe: MergeRecipe) -> ModelConfig:
    dense = base.layers[0].feed_forward
    assert isinstance(dense, Dense)
    shape = Shape(
        num_experts=len(recipe.experts),
        num_chosen=recipe.num_chosen,
        expert_size=dense.size,
    )
    return to_mixture(base, shape, recipe.family)


def _gates(folder: Path, recipe: MergeRecipe) -> Tensor | None:
    if recipe.gate == "random":
        return None
    return prompt_gates(load(folder, "float32"), recipe.experts)


def _check_alike(
    name: str, base: tuple[Path, ModelConfig], other: tuple[Path, ModelConfig]
) -> None:
    """Raises InputError unless the two compute alike and read the same tokens."""
    different = differences(_computed(base[1]), _computed(other[1]))
    if different:
        raise InputError(
            f"{name} is not a model of the base's shape: {'; '.join(different)}",
            hint="merge models that were trained from one and the same dense model",
        )
    pair = _vocabulary(base[0]), _vocabulary(other[0])
    if None not in pair and pair[0] != pair[1]:
        raise InputError(
            f"{name} has another tokenizer than the base",
            hint="merge models that read the same tokens",
        )


def _computed(config: ModelConfig) -> ModelConfig:
    """What a config says of the computation: not its name, its limit and its special tokens."""
    return replace(config, family="", max_context=1, bos_id=None, eos_ids=(), pad_id=None)


def _vocabulary(folder: Path) -> object:
    """What a tokenizer.json calls its tokens; None without one."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    content = read_json(path)
    model, added = content.get("model"), content.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    return vocabulary, sorted((t.get("id", -1), t.get("content", "")) for t in added)


def _check_types(
    recipe: MergeRecipe, base: StoredParameters, experts: Sequence[StoredParameters]
) -> None:
    for expert, stored in zip(recipe.experts, experts, strict=True):
        for parameter in base.shapes:
            ours, theirs = base.dtype(parameter), stored.dtype(parameter)
            if ours != theirs:
                raise InputError(
                    f"{expert.source} stores {parameter} as {theirs}, the base as {ours}",
                    hint="save it in the base's type first, as expertly.save does with dtype",
                )


class _Merged:
    """The mixture's parameters, each made when it is asked for."""

    def __init__(
        self,
        base: StoredParameters,
        experts: Sequence[StoredParameters],
        target: ModelConfig,
        recipe: MergeRecipe,
        gates_LED: Tensor | None,
    ) -> None:
        self._base = base
        self._experts = experts
        self._target = target
        self._shapes = parameters(target)
        self._recipe = recipe
        self._gates_LED = gates_LED

    def dtype(self, parameter: str) -> torch.dtype:
        """New parameters take the type of the feed-forward that they belong to."""
        if parameter in self._base:
            return self._base.dtype(parameter)
        return self._base.dtype(dense_name(layer_of(parameter), "gate"))

    def value(self, parameter: str, expert: int | None) -> Tensor:
        if parameter in self._base:
            return self._other(parameter)
        layer, leaf = layer_of(parameter), parameter.split(".feed_forward.")[1]
        if leaf == "router.w_ED":
            return self._router(layer)
        if leaf == "w_shared_gate_D":
            return half_open_gate(self._target.hidden_size)
        kind = kind_of(parameter)
        if leaf.startswith("shared."):
            return silent_expert(kind, self._shapes[parameter], self._recipe.seed, layer)
        assert expert is not None
        return self._experts[expert].read(dense_name(layer, kind))

    def _router(self, layer: int) -> Tensor:
        if self._gates_LED is not None:
            return self._gates_LED[layer]
        seed, num_experts = self._recipe.seed, len(self._experts)
        return random_router(seed, layer, num_experts, self._target.hidden_size)

    def _other(self, parameter: str) -> Tensor:
        """What is not a feed-forward: the base's, or the experts' mean, summed in float32."""
        if self._recipe.others == "base":
            return self._base.read(parameter)
        mean = torch.zeros(self._base.shapes[parameter])
        for stored in self._experts:
            mean += stored.read(parameter)
        return mean.div_(len(self._experts))
