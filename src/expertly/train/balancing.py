"""What a recipe's balance rule adds to the loss, and what it moves after a step."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from expertly.config import Mixture, ModelConfig
from expertly.errors import RecipeError
from expertly.mixture import Routing, balance, steering
from expertly.mixture.layer import MixtureLayer
from expertly.model import Decoder
from expertly.train.loads import Load
from expertly.train.recipe import BalanceRecipe


def check_balance(config: ModelConfig, recipe: BalanceRecipe) -> None:
    """RecipeError for a rule that the model's routers cannot follow."""
    mixtures = [config.layers[i].feed_forward for i in config.mixture_layers]
    routers = [mixture.router for mixture in mixtures if isinstance(mixture, Mixture)]
    if recipe.rule in ("bias", "quantile") and not all(r.has_steering_bias for r in routers):
        raise RecipeError(
            f"[balance] rule {recipe.rule!r} moves a steering bias, which the routers lack",
            hint="set has_steering_bias in [model]'s router, or choose another rule",
        )
    if recipe.rule == "quantile" and any(router.groups for router in routers):
        raise RecipeError(
            "[balance] rule 'quantile' and routers that choose among groups first",
            hint="an expert outside of the chosen groups has no score to take a quantile of: bias",
        )
    if recipe.rule == "relu" and not all(router.rule == "relu" for router in routers):
        raise RecipeError(
            f"[balance] rule 'relu' and routers of rule {routers[0].rule!r}",
            hint="make the routers' rule relu, or choose another of [balance]",
        )


def mixtures(model: Decoder) -> list[MixtureLayer]:
    """In the order in which routings come."""
    layers = (model.layers[index] for index in model.config.mixture_layers)
    return [layer.get_submodule("feed_forward") for layer in layers]  # type: ignore[misc]


def rule_loss(
    recipe: BalanceRecipe, config: ModelConfig, routings: Sequence[Routing], rows: Sequence[Tensor]
) -> Tensor:
    """The rule's loss without its weight, the mean over layers; of rules that have none it is
    the Switch loss, for the record. `rows`: each layer's rows of the whole step (for "global")
    or of the other ranks' parts of the batch too; none: the batch is all there is."""
    if rows:
        return _mean(balance.load_balance(r, n) for r, n in zip(routings, rows, strict=True))
    if recipe.rule == "importance":
        return _mean(balance.importance(routing) for routing in routings)
    if recipe.rule == "relu":
        chosen = [_mixture(config, index).num_chosen for index in config.mixture_layers]
        pairs = zip(routings, chosen, strict=True)
        return _mean(balance.relu_sparsity(routing, K) for routing, K in pairs)
    return _mean(balance.load_balance(routing) for routing in routings)


def beside_loss(recipe: BalanceRecipe, routings: Sequence[Routing]) -> tuple[Tensor, Tensor]:
    """The losses by sequences (0 where it has no coefficient) and of z, the means over layers."""
    z = _mean(balance.router_z(routing) for routing in routings)
    if not recipe.sequence:
        return torch.zeros_like(z), z
    return _mean(balance.sequence_balance(routing) for routing in routings), z


@torch.no_grad()
def rows_ahead(
    run: Callable[[Tensor], Sequence[Routing]], batches: Sequence[Tensor], device: torch.device
) -> list[Tensor]:
    """Each layer's rows of all batches, found by a pass of its own: a loss that takes shares of
    the whole step needs them before its first batch. The passes after it draw what it drew."""
    loads: list[Load] = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for ids_BS in batches:
            loads = Load.added(loads, run(ids_BS))
    return [load.counts_E for load in loads]


@torch.no_grad()
def move_biases(recipe: BalanceRecipe, model: Decoder, loads: Sequence[Load]) -> None:
    """The routers' steering biases after a step of these loads."""
    if recipe.rule not in ("bias", "quantile"):
        return
    for layer, load in zip(mixtures(model), loads, strict=True):
        bias_E = layer.router.b_steer_E
        assert bias_E is not None
        if recipe.rule == "bias":
            moved_E = steering.stepped(bias_E, load.counts_E, recipe.bias_rate)
        else:
            # the choice was made from scores with the bias in them
            scores_TE = load.scores_TE - bias_E
            moved_E = steering.to_quantiles(bias_E, scores_TE, layer.router.num_chosen)
        bias_E.copy_(moved_E)


def next_weight(
    recipe: BalanceRecipe, config: ModelConfig, weight: float, loads: Sequence[Load]
) -> float:
    """The weight of the rule's loss at the next step, where it finds itself; 0 where not."""
    if recipe.rule != "relu" or not loads:
        return 0.0
    chosen = [_mixture(config, index).num_chosen for index in config.mixture_layers]
    experts = sum(int(load.counts_E.sum()) / max(1, load.num_tokens) for load in loads)
    weight = weight or recipe.first_weight
    return steering.relu_weight(weight, experts / len(loads), sum(chosen) / len(chosen))


def _mixture(config: ModelConfig, index: int) -> Mixture:
    rule = config.layers[index].feed_forward
    assert isinstance(rule, Mixture)
    return rule


def _mean(values: Iterable[Tensor]) -> Tensor:
    found = list(values)
    return torch.stack(found).mean() if found else torch.zeros(())
