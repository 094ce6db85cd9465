"""What a recipe's balance rule does to a run: losses, biases, revivals, refusals."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import router_rules
import torch
from balance_tables import balanced_by
from rich.console import Console
from torch import Tensor

from expertly.config import ModelConfig
from expertly.errors import RecipeError
from expertly.families import read_config
from expertly.mixture import balance, measures
from expertly.train import begin
from expertly.train.balancing import mixtures
from expertly.train.begin import make_model
from expertly.train.loads import Load
from expertly.train.loop import train
from expertly.train.recipe import Recipe
from expertly.train.reviving import count_dead, revive
from expertly.train.state import State, fingerprint, make_optimisers
from expertly.train.step import take_step
from expertly.train.texts import open_domains
from expertly.train.vocabulary import make_tokenizer

MakeRecipe = Callable[..., Recipe]
STEERED = router_rules.spelled("deepseek_v4")
GROUPED = router_rules.spelled("deepseek_v3")
RULES = {
    "none": {},
    "switch": {},
    "global": {},
    "importance": {},
    "bias": {"rate": 0.01},
    "quantile": {},
}


def with_model(recipe: Recipe, model: dict[str, Any]) -> Recipe:
    kept = {key: value for key, value in model.items() if key != "vocab_size"}
    return dataclasses.replace(recipe, model=kept)


def state_of(recipe: Recipe, folder: Path) -> State:
    tokenizer = make_tokenizer(recipe, open_domains(("poem.txt",), (), 0.1, folder), folder)
    model = make_model(recipe, tokenizer)
    return State(model=model, optimisers=make_optimisers(model, recipe.optimiser))


def make_config(recipe: Recipe) -> ModelConfig:
    return read_config({**recipe.model, "vocab_size": 40})


def batches(recipe: Recipe, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (recipe.run.accumulation, recipe.run.batch, recipe.data.sequence + 1)
    return list(torch.randint(280, shape, generator=generator))


def biases(state: State) -> list[Tensor]:
    return [layer.router.b_steer_E.clone() for layer in mixtures(state.model)]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_and_a_stopped_run_ends_as_the_whole_one(
    rule: str, make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    table = balanced_by(rule=rule, sequence=0.001, revive_after=2, **RULES[rule])
    recipe = with_model(make_recipe(table), STEERED)
    train(recipe, tmp_path / "whole", console=quiet)
    train(recipe, tmp_path / "parts", stop_after=3, console=quiet)
    train(recipe, tmp_path / "parts", resume=True, console=quiet)
    weights = [tmp_path / run / "final" / "model.safetensors" for run in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize("rule", ["bias", "quantile"])
def test_biases_move_by_the_rows_of_all_batches_of_a_step(
    rule: str, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = with_model(make_recipe(balanced_by(rule=rule)), STEERED)
    state = state_of(recipe, tmp_path)
    assert all(not bias_E.any() for bias_E in biases(state))
    take_step(state, recipe, batches(recipe), torch.float32, read=False)
    moved = biases(state)
    assert all(bias_E.abs().max() > 0 and abs(float(bias_E.sum())) < 1e-6 for bias_E in moved)
    if rule == "bias":
        assert all(bias_E.abs().max() <= 2 * 0.001 for bias_E in moved)


def test_a_skipped_step_moves_no_bias(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = with_model(make_recipe(balanced_by(rule="bias")), STEERED)
    state = state_of(recipe, tmp_path)
    state.model.layers[0].attention_norm.weight_D.data[0] = float("nan")
    report = take_step(state, recipe, batches(recipe), torch.float32, read=False)
    assert report.is_skipped and all(not bias_E.any() for bias_E in biases(state))


def test_without_its_rule_a_steering_bias_stays(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = with_model(make_recipe(balanced_by(rule="switch")), STEERED)
    state = state_of(recipe, tmp_path)
    take_step(state, recipe, batches(recipe), torch.float32, read=False)
    assert all(not bias_E.any() for bias_E in biases(state))


def test_a_steering_bias_is_part_of_what_a_state_is(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    state = state_of(with_model(make_recipe(), STEERED), tmp_path)
    before = fingerprint(state)
    mixtures(state.model)[0].router.b_steer_E[0] = 0.5
    assert fingerprint(state) != before


def test_global_shares_are_those_of_the_whole_step(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Against the loss over all batches, each weighed by the rows of the step."""
    recipe = make_recipe(balanced_by(rule="global", weight=0.5, z=0.0))
    state, other = state_of(recipe, tmp_path), state_of(recipe, tmp_path)
    parts = batches(recipe)
    report = take_step(state, recipe, parts, torch.float32, read=False)
    routings = [other.model(part[:, :-1], routings=True).routings for part in parts]
    expected = []
    for layers in zip(*routings, strict=True):
        rows_E = sum(measures.counts(routing) for routing in layers)
        expected += [balance.load_balance(routing, rows_E).item() for routing in layers]
    assert report.balance == pytest.approx(sum(expected) / len(expected), rel=1e-6)


def test_the_pass_ahead_of_global_shares_changes_no_draw(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    noisy = router_rules.spelled("noisy")
    found = []
    for rule in ("global", "switch"):
        torch.manual_seed(3)
        recipe = with_model(make_recipe(balanced_by(rule=rule, weight=0.0)), noisy)
        state = state_of(recipe, tmp_path)
        torch.manual_seed(4)
        found.append(take_step(state, recipe, batches(recipe), torch.float32, read=False).loss)
    assert found[0] == found[1]


def test_relu_routers_find_the_weight_of_their_loss(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = with_model(make_recipe(balanced_by(rule="relu")), router_rules.spelled("relu"))
    state = state_of(recipe, tmp_path)
    take_step(state, recipe, batches(recipe), torch.float32, read=False)
    first = state.balance_weight
    assert first in (pytest.approx(1.2e-8), pytest.approx(1e-8 / 1.2))
    take_step(state, recipe, batches(recipe, 1), torch.float32, read=False)
    assert state.balance_weight in (pytest.approx(first * 1.2), pytest.approx(first / 1.2))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rule": "bias", "weight": 0.1}, "weight is 0.1, and rule 'bias' has no loss"),
        ({"rule": "switch", "rate": 0.1}, "rate is 0.1, and rule 'switch'"),
        ({"rule": "switch", "z": -1.0}, "z is -1.0"),
        ({"rule": "balanced"}, "rule is 'balanced'"),
        ({"wait": 1.0}, "unknown key 'wait'"),
    ],
)
def test_rules_that_exclude_each_other_are_refused(
    values: dict[str, Any], said: str, make_recipe: MakeRecipe
) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe(balanced_by(**values))
    assert said in caught.value.message and caught.value.hint


@pytest.mark.parametrize(
    ("rule", "said"), [("bias", "steering bias"), ("quantile", "steering bias"), ("relu", "'relu'")]
)
def test_a_rule_that_the_routers_cannot_follow_is_refused_before_anything_is_written(
    rule: str, said: str, make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(RecipeError, match=said):
        train(make_recipe(balanced_by(rule=rule)), tmp_path / "run", console=quiet)
    assert not (tmp_path / "run").exists()


def test_quantiles_of_routers_with_groups_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = with_model(make_recipe(balanced_by(rule="quantile")), GROUPED)
    with pytest.raises(RecipeError, match="groups"):
        begin.check_balance(make_config(recipe), recipe.balance)


def load_of(*counts: int) -> Load:
    rows = sum(counts)
    return Load(torch.tensor(counts), rows, 0.0, torch.zeros(rows, len(counts)))


def test_steps_without_rows_are_counted_until_one_comes() -> None:
    dead = count_dead([], [load_of(99, 0, 1, 700)])
    assert dead == [[0, 1, 1, 0]]
    assert count_dead(dead, [load_of(99, 0, 30, 700)]) == [[0, 2, 0, 0]]


def test_an_expert_that_stays_dead_begins_anew_beside_the_busiest(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe(("seed = 5", "seed = 5\nstatistics_every = 1"))
    state = state_of(recipe, tmp_path)
    take_step(state, recipe, batches(recipe), torch.float32, read=False)
    layer, optimiser = mixtures(state.model)[0], state.optimisers[0]
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    state.dead_steps = [[0, 1, 0, 0], [0, 0, 0, 0]]
    even = load_of(50, 50, 50, 50)
    assert revive(state, [load_of(10, 0, 90, 100), even], 2) == [(0, 1)]
    assert state.dead_steps == [[0, 0, 0, 0], [0, 0, 0, 0]]
    for name, parameter in layer.named_parameters():
        if not name.startswith(("experts.", "router.")):
            assert torch.equal(parameter, before[name])
            continue
        for expert in (0, 2, 3):
            assert torch.equal(parameter[expert], before[name][expert])
        gap = (parameter[1].detach() - before[name][3]).std() / before[name][3].std()
        assert 0.02 < float(gap) < 0.3, name
        moments = optimiser.state[parameter]
        assert not moments["exp_avg"][1].any() and moments["exp_avg"][3].any()


def test_revivals_are_told_and_written_down(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Routers that know two of four experts, and are not trained, until rows are copied."""
    real = begin.initialise

    def collapsed(model: Any, seed: int, std: float) -> None:
        real(model, seed, std)
        for layer in mixtures(model):
            layer.router.w_ED.data.zero_()

    monkeypatch.setattr(begin, "initialise", collapsed)
    recipe = make_recipe(balanced_by(rule="none", revive_after=1))
    train(recipe, tmp_path / "run", console=quiet)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    revived = [row for row in map(json.loads, lines) if row["kind"] == "revival"]
    assert sorted(row["layer"] for row in revived if row["step"] == 1) == [0, 0, 1, 1]
    assert "begins anew" in quiet.file.getvalue()
