"""Bits for each expert: a budget is kept, and goes where it gains most."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packing import FAMILIES, WIDE, calibrated, logits_of, native_logits, pack
from tiny_checkpoints import tiny_model, write_tiny

from expertly.checkpoint import save
from expertly.checkpoint.allocating import Rung, choose, relative_error, with_average
from expertly.checkpoint.packed_saving import open_folder
from expertly.checkpoint.recipe import BITS, Recipe, recipe_of_bits
from expertly.errors import InputError


@st.composite
def ladders(draw) -> dict[tuple[int, int], list[Rung]]:
    """Ladders that rise in bytes and fall in cost."""
    found = {}
    for expert in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 4))
        sizes = draw(st.lists(st.integers(1, 30), min_size=count, max_size=count, unique=True))
        costs = draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count, unique=True))
        rungs = zip(sorted(sizes), sorted(costs, reverse=True), strict=True)
        found[0, expert] = [Rung(f"f{i}", size, cost) for i, (size, cost) in enumerate(rungs)]
    return found


def total(found: dict, chosen: dict[tuple[int, int], str], what: str) -> float:
    return sum(
        getattr(next(rung for rung in found[key] if rung.format == name), what)
        for key, name in chosen.items()
    )


@given(ladders(), st.integers(0, 60))
def test_a_budget_is_never_exceeded_and_no_further_step_fits(found, more: int) -> None:
    budget = sum(ladder[0].num_bytes for ladder in found.values()) + more
    chosen = choose(found, budget)
    left = budget - total(found, chosen, "num_bytes")
    assert chosen.keys() == found.keys() and left >= 0
    for key, name in chosen.items():
        at = [rung.format for rung in found[key]].index(name)
        following = found[key][at + 1 : at + 2]
        assert all(rung.num_bytes - found[key][at].num_bytes > left for rung in following)


@given(ladders(), st.integers(0, 60))
def test_more_bytes_never_cost_more_than_the_least(found, more: int) -> None:
    least = {key: ladder[0].format for key, ladder in found.items()}
    budget = int(total(found, least, "num_bytes")) + more
    assert total(found, choose(found, budget), "cost") <= total(found, least, "cost")


def test_equal_steps_go_to_those_that_gain_most() -> None:
    found = {
        (0, e): [Rung("low", 10, 8 * use), Rung("middle", 12, 3 * use), Rung("high", 14, use)]
        for e, use in enumerate((1, 100, 10))
    }
    # gains a step: 5, 500, 50 and then 2, 200, 20
    assert choose(found, 32) == {(0, 0): "low", (0, 1): "middle", (0, 2): "low"}
    assert choose(found, 36) == {(0, 0): "low", (0, 1): "high", (0, 2): "middle"}
    assert choose(found, 42) == dict.fromkeys(found, "high")


def test_where_steps_shrink_greedy_is_the_best_of_all_choices() -> None:
    generator = np.random.default_rng(0)
    found = {}
    for expert in range(4):
        gains = sorted(generator.random(3), reverse=True)
        costs = 5 - np.cumsum([0, *gains])
        found[0, expert] = [Rung(f"f{i}", 10 * i, cost) for i, cost in enumerate(costs)]
    for budget in range(0, 130, 10):
        best = min(
            sum(ladder[i].cost for ladder, i in zip(found.values(), at, strict=True))
            for at in product(range(4), repeat=4)
            if 10 * sum(at) <= budget
        )
        assert total(found, choose(found, budget), "cost") == pytest.approx(best)


# small models have more of vectors, padding and routers
@pytest.mark.parametrize(
    ("name", "bits"), [("wide", 6.8), ("wide", 8.0), ("dbrx", 12.0), ("gpt_oss", 17.0)]
)
def test_a_folder_takes_no_more_than_the_average_that_was_asked_for(tmp_path, name, bits) -> None:
    write_tiny(tmp_path / "m", FAMILIES[name])
    with open_folder(tmp_path / "m") as source:
        recipe = with_average(recipe_of_bits(4), source.config, source.rows, bits)
    report = pack(tmp_path / "m", tmp_path / "out", recipe)
    assert 0.9 * bits < report.bits_per_weight <= bits
    assert report.fell_back == {}


def test_experts_that_are_used_more_get_more_bits(tmp_path) -> None:
    model = tiny_model(WIDE)
    with torch.no_grad():
        # expert 3 is chosen by nearly all, expert 1 by nearly none
        for layer in model.layers:
            layer.feed_forward_norm.weight_D.abs_()
            layer.feed_forward.router.w_ED[3] *= 0.1
            layer.feed_forward.router.w_ED[1] *= 0.001
    save(model, tmp_path / "m")
    calibration = calibrated(model)
    with open_folder(tmp_path / "m") as source:
        arguments = (recipe_of_bits(4), source.config, source.rows, 6.5, calibration)
        recipe = with_average(*arguments)
    for layer in (0, 1):
        uses = [calibration.use(layer, e) for e in range(5)]
        gains = [share * weight**1.5 for share, weight in uses]
        bits = [BITS[recipe.chosen[layer, e]] for e in range(5)]
        assert bits[int(np.argmax(gains))] == max(bits) > bits[int(np.argmin(gains))]


def test_a_budget_spent_by_use_is_better_than_the_same_bits_everywhere(tmp_path) -> None:
    model = write_tiny(tmp_path / "m", WIDE)
    calibration = calibrated(model, num_windows=10)
    uniform = Recipe(experts="i4", others="f32")
    report = pack(tmp_path / "m", tmp_path / "uniform", uniform, calibration=calibration)
    with open_folder(tmp_path / "m") as source:
        bits = report.bits_per_weight
        recipe = with_average(uniform, source.config, source.rows, bits, calibration)
    spent = pack(tmp_path / "m", tmp_path / "spent", recipe, calibration=calibration)
    assert spent.weight_bytes <= report.weight_bytes
    exact = logits_of(model)
    errors = [(native_logits(tmp_path / o) - exact).norm() for o in ("spent", "uniform")]
    assert errors[0] < errors[1]


def test_an_expert_whose_format_was_named_keeps_it(tmp_path) -> None:
    write_tiny(tmp_path / "m", WIDE)
    kept = recipe_of_bits(4, [("*.experts.2.*", "f16")])
    with open_folder(tmp_path / "m") as source:
        recipe = with_average(kept, source.config, source.rows, 9.0)
    report = pack(tmp_path / "m", tmp_path / "out", recipe)
    assert report.weights["f16"] == 2 * 3 * 256 * 256 and report.bits_per_weight <= 9.0


@pytest.mark.parametrize("bits", [float("nan"), float("inf"), 0.0, -4.0])
def test_an_average_that_is_no_number_of_bits_is_refused(bits: float, tmp_path) -> None:
    write_tiny(tmp_path / "m", WIDE)
    with open_folder(tmp_path / "m") as source, pytest.raises(InputError, match="on average"):
        with_average(recipe_of_bits(4), source.config, source.rows, bits)


def test_an_average_below_what_is_possible_is_refused_with_the_least(tmp_path) -> None:
    write_tiny(tmp_path / "m", WIDE)
    with open_folder(tmp_path / "m") as source:
        with pytest.raises(InputError) as caught:
            with_average(recipe_of_bits(4), source.config, source.rows, 2.0)
        least = float(caught.value.hint.split()[3].rstrip(","))
        recipe = with_average(recipe_of_bits(4), source.config, source.rows, least + 0.01)
    assert set(recipe.chosen.values()) == {"q2_k"}


def test_an_average_above_what_is_possible_is_refused_with_the_most(tmp_path) -> None:
    write_tiny(tmp_path / "m", WIDE)
    with open_folder(tmp_path / "m") as source:
        with pytest.raises(InputError, match="more than all experts can take") as caught:
            with_average(recipe_of_bits(4), source.config, source.rows, 99.0)
        most = float(caught.value.hint.split()[3])
        recipe = with_average(recipe_of_bits(4), source.config, source.rows, most - 0.01)
    assert {"q8_0"} < set(recipe.chosen.values())


def test_the_error_of_a_format_is_the_share_of_the_output_that_it_loses() -> None:
    weights = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    assert relative_error("f32", weights, None) == 0
    assert relative_error("q8_0", np.zeros_like(weights), None) == 0
    errors = [relative_error(name, weights, None) for name in ("q8_0", "q5_0", "q4_0")]
    assert errors == sorted(errors) and errors[0] < 1e-4 < errors[2] < 1e-2
    # columns that cost nothing are not counted
    importance = np.ones(64, np.float32)
    importance[32:] = 0
    half = weights.copy()
    half[:, 32:] = 0
    ours = relative_error("q4_0", weights, importance)
    assert ours == pytest.approx(relative_error("q4_0", half, importance))
