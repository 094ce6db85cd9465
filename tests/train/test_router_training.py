"""Every rule trained from a recipe: losses that are finite, runs that resume to the bit."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import router_rules
import torch
from rich.console import Console

from expertly.checkpoint import load
from expertly.errors import ConfigError
from expertly.train.loop import train
from expertly.train.recipe import Recipe, parse_recipe

MakeRecipe = Callable[..., Recipe]

# those that draw from the generator, or drop rows, while they train
RANDOM = ["noisy", "switch", "sparsemixer", "emo", "next"]


def recipe_of(make_recipe: MakeRecipe, name: str) -> Recipe:
    model = {key: value for key, value in router_rules.spelled(name).items() if key != "vocab_size"}
    return dataclasses.replace(make_recipe(("steps = 8", "steps = 6")), model=model)


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row["kind"] == "step"]


@pytest.mark.parametrize("name", router_rules.NAMES)
def test_every_rule_trains_and_its_model_comes_back(
    name: str, make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    summary = train(recipe_of(make_recipe, name), tmp_path / "run", console=quiet)
    found = losses(tmp_path / "run")
    assert len(found) == 6
    assert all(map(math.isfinite, found))
    assert summary.skipped == 0
    model = load(summary.final)
    assert model.config.family == "expertly"
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", RANDOM)
def test_a_run_that_stopped_draws_what_it_would_have_drawn(
    name: str, make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    recipe = recipe_of(make_recipe, name)
    train(recipe, tmp_path / "whole", console=quiet)
    train(recipe, tmp_path / "parts", stop_after=2, console=quiet)
    torch.rand(5)  # what else draws must not matter
    train(recipe, tmp_path / "parts", resume=True, console=quiet)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    weights = [tmp_path / run / "final" / "model.safetensors" for run in ("parts", "whole")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_recipe_spells_our_own_family_in_toml(make_recipe: MakeRecipe) -> None:
    plain = make_recipe()
    _, _, rest = plain.source.partition("[tokenizer]")
    text = """
[model]
model_type = "expertly"
hidden_size = 16
num_hidden_layers = 2
max_position_embeddings = 64
[model.attention]
num_heads = 2
num_kv_heads = 1
head_size = 8
rope = { base = 10000.0 }
[model.mixture]
num_experts = 4
num_chosen = 2
expert_size = 8
[model.mixture.router]
score = "sigmoid"
norm_p = 1
has_steering_bias = true
capacity = { factor = 1.25 }
[tokenizer]"""
    recipe = parse_recipe(text + rest, name="ours", folder=plain.folder)
    assert recipe.model["mixture"]["router"]["capacity"] == {"factor": 1.25}


def test_a_router_without_a_gradient_is_refused_before_the_first_step(
    make_recipe: MakeRecipe, tmp_path: Path, quiet: Console
) -> None:
    changes = ("num_experts_per_tok = 2", "num_experts_per_tok = 1")
    with pytest.raises(ConfigError, match="chooses 1 expert and divides its weight by itself"):
        train(make_recipe(changes), tmp_path / "run", console=quiet)
    assert not (tmp_path / "run").exists()
