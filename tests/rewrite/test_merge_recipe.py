"""Merge recipes: what a TOML file may say, and what is refused by name."""

import tomllib
from pathlib import Path

import pytest

from expertly.errors import RecipeError
from expertly.rewrite.merge_recipe import MergeRecipe, parse_merge_recipe, read_merge_recipe

WHOLE = """
base = "models/base"
gate = "hidden"
others = "base"
num_chosen = 2
family = "mixtral"
seed = 3

[[experts]]
source = "models/maths"
positive = ["Prove that", "Solve for x"]
negative = ["Write a poem"]

[[experts]]
source = "owner/poetry"
positive = ["Write a poem"]
"""
EXPERTS = '[[experts]]\nsource = "a"\n[[experts]]\nsource = "b"\n'


def parse(text: str, folder: Path = Path("nowhere")) -> MergeRecipe:
    return parse_merge_recipe(tomllib.loads(text), folder)


def test_a_whole_recipe_is_read_as_it_stands() -> None:
    recipe = parse(WHOLE)
    assert recipe.base == "models/base"
    assert (recipe.gate, recipe.others, recipe.num_chosen) == ("hidden", "base", 2)
    assert (recipe.family, recipe.seed) == ("mixtral", 3)
    assert [expert.source for expert in recipe.experts] == ["models/maths", "owner/poetry"]
    assert recipe.experts[0].positive == ("Prove that", "Solve for x")
    assert recipe.experts[0].negative == ("Write a poem",)
    assert recipe.experts[1].negative == ()


def test_two_sources_are_enough() -> None:
    recipe = parse(EXPERTS)
    assert (recipe.gate, recipe.others, recipe.num_chosen) == ("random", "average", 2)
    assert recipe.base_source == "a"


def test_folders_beside_the_recipe_are_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "merge.toml").write_text(EXPERTS)
    recipe = read_merge_recipe(tmp_path / "merge.toml")
    assert [expert.source for expert in recipe.experts] == [str(tmp_path / "a"), "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the recipe lacks experts"),
        ("experts = 3", "experts is 3"),
        ('experts = ["a", "b"]', "experts is"),
        ("bass = 'x'\n" + EXPERTS, "the recipe has an unknown key 'bass'"),
        (EXPERTS + "sauce = 1", "expert 2 has an unknown key 'sauce'"),
        ("[[experts]]\npositive = ['x']", "expert 1 lacks a source"),
        ("[[experts]]\nsource = 3", "expert 1 has the source 3"),
        ("[[experts]]\nsource = ''", "expert 1 has the source ''"),
        (EXPERTS + "positive = 'x'", "expert 2 has positive 'x'"),
        (EXPERTS + "negative = [1]", r"expert 2 has negative \[1\]"),
        (EXPERTS + "negative = ['']", r"expert 2 has negative \[''\]"),
        ("gate = 'cheap'\n" + EXPERTS, "gate is 'cheap'"),
        ("others = 'ties'\n" + EXPERTS, "others is 'ties'"),
        ("seed = true\n" + EXPERTS, "seed is True"),
        ("num_chosen = '2'\n" + EXPERTS, "num_chosen is '2'"),
        ("family = 3\n" + EXPERTS, "family is 3"),
        ("num_chosen = 1\n" + EXPERTS, "1 experts chosen out of 2"),
        ("num_chosen = 3\n" + EXPERTS, "3 experts chosen out of 2"),
        ("gate = 'hidden'\n" + EXPERTS, "the expert a has no positive prompts"),
        (EXPERTS + "positive = ['x']", "the expert b has prompts, and gates are random"),
    ],
)
def test_what_a_recipe_must_not_say_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(RecipeError, match=told) as caught:
        parse(text)
    assert caught.value.hint


def test_a_misspelled_key_is_told_the_one_that_looks_like_it() -> None:
    with pytest.raises(RecipeError) as caught:
        parse("bass = 'x'\n" + EXPERTS)
    assert "base" in caught.value.hint


@pytest.mark.parametrize(("content", "told"), [(b"a = ", "is not TOML"), (b"\xff", "is not TOML")])
def test_a_file_that_is_no_toml_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "merge.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=told):
        read_merge_recipe(tmp_path / "merge.toml")


def test_a_recipe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        read_merge_recipe(tmp_path / "merge.toml")
