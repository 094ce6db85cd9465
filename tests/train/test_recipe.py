from collections.abc import Callable
from pathlib import Path

import pytest

from expertly.errors import RecipeError
from expertly.train.recipe import Recipe, parse_recipe, read_recipe

MakeRecipe = Callable[..., Recipe]
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


def error_of(make_recipe: MakeRecipe, old: str, new: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        make_recipe((old, new))
    return caught.value


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_repository_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
    assert recipe.source == path.read_text()


def test_a_recipe_gives_back_what_it_says(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe()
    assert recipe.model["num_experts"] == 4
    assert recipe.tokenizer.vocab_size == 280
    assert recipe.data.texts == ("poem.txt",)
    assert recipe.optimiser.peak_lr == 0.01
    assert (recipe.run.steps, recipe.steps) == (8, 8)
    assert recipe.tokens_per_step == 2 * 2 * 16


def test_tokens_are_rounded_up_to_whole_steps(make_recipe: MakeRecipe) -> None:
    assert make_recipe(("steps = 8", "tokens = 128")).steps == 2
    assert make_recipe(("steps = 8", "tokens = 129")).steps == 3


def test_a_whole_number_will_do_where_a_number_is_asked_for(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(("peak_lr = 0.01", "peak_lr = 1"))
    assert recipe.optimiser.peak_lr == 1.0
    assert isinstance(recipe.optimiser.peak_lr, float)


def test_an_unknown_key_is_named_with_the_nearest_known_one(make_recipe: MakeRecipe) -> None:
    error = error_of(make_recipe, "warmup_steps", "warm_up_steps")
    assert error.message == "[optimiser] has an unknown key 'warm_up_steps'"
    assert "warmup_steps" in error.hint


def test_an_unknown_table_is_named_with_the_nearest_known_one(make_recipe: MakeRecipe) -> None:
    error = error_of(make_recipe, "[optimiser]", "[optimizer]")
    assert "'optimizer'" in error.message
    assert "optimiser" in error.hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch = 2", 'batch = "2"', "[run] batch is '2'"),
        ("batch = 2", "batch = 2.0", "[run] batch is 2.0"),
        ("batch = 2", "batch = true", "[run] batch is True"),
        ("batch = 2", "", "[run] lacks batch"),
        ("batch = 2", "batch = 0", "[run] batch is 0"),
        ("steps = 8", "", "[run] has steps None and tokens None"),
        ("steps = 8", "steps = 8\ntokens = 8", "[run] has steps 8 and tokens 8"),
        ("seed = 5", "seed = -1", "[run] seed is -1"),
        ('"float32"', '"float16"', "[run] dtype is 'float16'"),
        ('"float32"', "[1]", "[run] dtype is [1]"),
        ('device = "cpu"', 'device = "gpu"', "[run] device is 'gpu'"),
        ("peak_lr = 0.01", "peak_lr = nan", "[optimiser] peak_lr is nan"),
        ("peak_lr = 0.01", "peak_lr = 0", "[optimiser] peak_lr is 0"),
        ("peak_lr = 0.01", "peak_lr = 1\nmatrix_lr = 0", "[optimiser] matrix_lr is 0"),
        ("warmup_steps = 3", "floor = 2", "[optimiser] floor is 2.0"),
        ("warmup_steps = 3", "warmup_steps = -3", "[optimiser] warmup_steps is -3"),
        ("warmup_steps = 3", "betas = [0.9]", "[optimiser] betas are [0.9]"),
        ("warmup_steps = 3", "betas = [0.9, 1.0]", "[optimiser] betas are [0.9, 1.0]"),
        ("warmup_steps = 3", "betas = 0.9", "[optimiser] betas is 0.9"),
        ("warmup_steps = 3", "clip = 0", "clip 0.0"),
        ('["poem.txt"]', "[]", "[data] texts is empty"),
        ('["poem.txt"]', '["poem.txt", 3]', "[data] texts, entry 2, is 3"),
        ("held_out = 0.1", "held_out = 1", "[data] held_out is 1.0"),
        ("held_out = 0.1", "weights = [1, 2]", "[data] has 2 weights for 1 texts"),
        ("held_out = 0.1", "weights = [-1]", "[data] weights are [-1.0]"),
        ("sequence = 16", "sequence = 0", "[data] sequence is 0"),
        ("vocab_size = 280", "vocab_size = 256", "[tokenizer] vocab_size is 256"),
        ("vocab_size = 280", "", "[tokenizer] has vocab_size None and path None"),
        ("vocab_size = 280", 'vocab_size = 280\npath = "x"', "vocab_size 280 and path 'x'"),
        ('model_type = "qwen2_moe"', "", "[model] lacks model_type"),
        ("[tokenizer]\nvocab_size = 280", "", "the recipe tiny lacks the table [tokenizer]"),
        ("[tokenizer]\nvocab_size = 280", "[[tokenizer]]\nvocab_size = 280", "[tokenizer] is ["),
        ("[run]", "[run", "the recipe tiny is not TOML"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_value(
    make_recipe: MakeRecipe, old: str, new: str, said: str
) -> None:
    error = error_of(make_recipe, old, new)
    assert said in error.message
    assert error.hint


def test_a_recipe_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*run\.toml: No such file"):
        read_recipe(path)
    path.write_bytes(b"[run]\nname = '\xff'")
    with pytest.raises(RecipeError, match=r"run\.toml is not UTF-8 at byte 14"):
        read_recipe(path)


def test_the_recipes_folder_is_kept_for_its_paths(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    source = make_recipe().source
    (tmp_path / "a.toml").write_text(source)
    assert read_recipe(tmp_path / "a.toml") == parse_recipe(source, name="a", folder=tmp_path)


def test_a_start_is_a_model_by_itself(make_recipe: Callable[..., Recipe]) -> None:
    model = 'model_type = "qwen2_moe"'
    with pytest.raises(RecipeError, match="start = 'there' and other keys"):
        make_recipe((model, f'start = "there"\n{model}'))
