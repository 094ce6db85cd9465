import math

from hypothesis import given
from hypothesis import strategies as st

from expertly.train.recipe import OptimiserRecipe
from expertly.train.schedule import learning_rate

RECIPE = OptimiserRecipe(peak_lr=0.8, floor=0.25, warmup_steps=4)


def test_the_rate_rises_evenly_to_its_peak() -> None:
    rates = [learning_rate(step, 100, RECIPE) for step in range(4)]
    assert rates == [0.2, 0.4, 0.6000000000000001, 0.8]


def test_the_rate_falls_on_a_cosine_to_its_floor() -> None:
    # after the warm-up: steps 4..14 of 15, the middle one half way between peak and floor
    assert learning_rate(4, 15, RECIPE) == 0.8
    assert math.isclose(learning_rate(9, 15, RECIPE), (0.8 + 0.2) / 2)
    assert math.isclose(learning_rate(14, 15, RECIPE), 0.2)
    quarter = 0.2 + 0.6 * (1 + math.cos(math.pi / 5)) / 2
    assert math.isclose(learning_rate(6, 15, RECIPE), quarter)


def test_without_a_warm_up_the_first_step_has_the_peak() -> None:
    recipe = OptimiserRecipe(peak_lr=0.8)
    assert learning_rate(0, 10, recipe) == 0.8
    assert math.isclose(learning_rate(9, 10, recipe), 0.08)


@given(st.integers(1, 50), st.integers(0, 60), st.floats(0, 1))
def test_the_rate_is_never_above_the_peak_nor_zero_in_the_warm_up(
    num_steps: int, warmup: int, floor: float
) -> None:
    recipe = OptimiserRecipe(peak_lr=1.0, floor=floor, warmup_steps=warmup)
    rates = [learning_rate(step, num_steps, recipe) for step in range(num_steps)]
    assert all(0 <= rate <= 1 + 1e-12 for rate in rates)
    assert all(rate > 0 for rate in rates[:warmup])
    after = rates[warmup:]
    assert after == sorted(after, reverse=True)
