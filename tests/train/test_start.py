"""A run that begins with a model's weights."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from expertly.errors import ExpertlyError, RecipeError
from expertly.train.loop import train
from expertly.train.recipe import Recipe, parse_recipe

MakeRecipe = Callable[..., Recipe]


def starting(recipe: Recipe, start: str, tokenizer: str = 'path = "first/final"') -> Recipe:
    """The same recipe, whose model and tokenizer are those of a run's end."""
    before, _, after = recipe.source.partition("[model]")
    after = after[after.index("[data]") :]
    text = f'{before}[model]\nstart = "{start}"\n[tokenizer]\n{tokenizer}\n{after}'
    return parse_recipe(text, name="second", folder=recipe.folder)


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in lines if row["kind"] == "step"]


@pytest.fixture
def recipe(make_recipe: MakeRecipe, tmp_path: Path, quiet: Console) -> Recipe:
    found = make_recipe(("steps = 8", "steps = 30"))
    train(found, tmp_path / "first", console=quiet)
    return found


def test_a_run_goes_on_where_another_ended(recipe: Recipe, tmp_path: Path, quiet: Console) -> None:
    second = starting(recipe, "first/final")
    train(second, tmp_path / "second", console=quiet)
    first, after = losses(tmp_path / "first"), losses(tmp_path / "second")
    assert after[0] == pytest.approx(sum(first[-5:]) / 5, abs=0.3) and after[0] < 0.8 * first[0]
    configs = [
        json.loads((tmp_path / run / "final" / "config.json").read_text())
        for run in ("first", "second")
    ]
    assert configs[0] == configs[1]


def test_it_resumes_to_the_bit(recipe: Recipe, tmp_path: Path, quiet: Console) -> None:
    second = starting(recipe, "first/final")
    train(second, tmp_path / "whole", console=quiet)
    train(second, tmp_path / "parts", stop_after=11, console=quiet)
    train(second, tmp_path / "parts", resume=True, console=quiet)
    weights = [tmp_path / run / "final" / "model.safetensors" for run in ("whole", "parts")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(
    recipe: Recipe, tmp_path: Path, quiet: Console
) -> None:
    other = starting(recipe, "first/final", "vocab_size = 290")
    with pytest.raises(RecipeError, match="the tokenizer has 290"):
        train(other, tmp_path / "second", console=quiet)


def test_a_folder_that_is_not_there_is_named(
    recipe: Recipe, tmp_path: Path, quiet: Console
) -> None:
    with pytest.raises(ExpertlyError, match="nowhere"):
        train(starting(recipe, "nowhere"), tmp_path / "second", console=quiet)
    assert not (tmp_path / "second").exists()
