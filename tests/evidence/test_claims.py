"""Claims as files: read strictly, and every arm is a recipe that can be run."""

import shutil
from pathlib import Path

import pytest

from evidence import claim as claims
from evidence.measures import AGAINST, MEASURES
from expertly.errors import RecipeError

NAMES = claims.names()


def test_there_are_claims() -> None:
    assert "mixture" in NAMES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("is_full", [False, True])
def test_every_arm_is_a_recipe(name: str, is_full: bool) -> None:
    claim = claims.read_claim(name)
    for arm in [*claim.arms, *claim.stages]:
        recipe = claim.recipe_of(arm, 7, is_full=is_full)
        assert recipe.run.seed == 7


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_has_three_seeds_and_measures_that_exist(name: str) -> None:
    claim = claims.read_claim(name)
    assert len(set(claim.heading.seeds)) >= 3
    known = {*MEASURES, *AGAINST}
    assert {*claim.heading.measures, *(judged.measure for judged in claim.judged)} <= known


def test_an_arm_changes_what_it_names_and_nothing_else() -> None:
    claim = claims.read_claim("mixture")
    dense, mixture = (claim.recipe_of(arm, 1) for arm in ("dense", "mixture"))
    assert (dense.data, dense.optimiser, dense.run) == (
        mixture.data,
        mixture.optimiser,
        mixture.run,
    )
    assert "num_experts" not in dense.model and mixture.model["num_experts"] == 64
    assert dense.model["hidden_size"] == mixture.model["hidden_size"]


def test_the_two_arms_of_mixture_are_active_in_equal_width() -> None:
    model = claims.read_claim("mixture").recipe_of("mixture", 1).model
    dense = claims.read_claim("mixture").recipe_of("dense", 1).model
    active = model["num_experts_per_tok"] * model["moe_intermediate_size"]
    assert active == dense["intermediate_size"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(claims.ROOT / "mixture", tmp_path / "mixture")
    return tmp_path


def change(folder: Path, before: str, after: str) -> None:
    path = folder / "mixture" / "claim.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_verdict_on_an_arm_that_nobody_describes_is_refused(folder: Path) -> None:
    change(folder, 'against = "dense"', 'against = "denser"')
    with pytest.raises(RecipeError, match="denser"):
        claims.read_claim("mixture", folder)


def test_an_unknown_key_of_a_claim_is_refused(folder: Path) -> None:
    change(folder, "published =", "publisht =")
    with pytest.raises(RecipeError, match="publisht"):
        claims.read_claim("mixture", folder)


def test_an_arm_that_sets_what_no_recipe_knows_is_refused(folder: Path) -> None:
    change(folder, "[arms.mixture]", '[arms.mixture]\n"run.stepps" = 3')
    with pytest.raises(RecipeError, match="stepps"):
        claims.read_claim("mixture", folder).recipe_of("mixture", 1)


def test_an_arm_that_names_no_table_is_refused(folder: Path) -> None:
    change(folder, "[arms.mixture]", "[arms.mixture]\nsteps = 3")
    with pytest.raises(RecipeError, match="'steps'"):
        claims.read_claim("mixture", folder).recipe_of("mixture", 1)
